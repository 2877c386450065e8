CREATE TABLE idempotency (
    scope bytea NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    status int,
    headers text,
    body text,
    owner uuid,
    leased_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_created ON idempotency USING brin (created_at);
