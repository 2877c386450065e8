"""The statements of the release before partitions, word for word: during a deploy, both releases run."""

from __future__ import annotations

from typing import Final

PLACE: Final = """
INSERT INTO orders (id, customer_id, workflow, event_bus, snapshot, amount, currency, traceparent, placed_id, cancel_id,
    next_at)
VALUES (%s, 'c-1', 'choreography', 'sns', '{}', 1, 'EUR', NULL, %s, %s, now() + make_interval(secs => 10))
RETURNING created_at
"""
LOCK: Final = """
SELECT id::text, workflow, event_bus, traceparent, placed_id::text, cancel_id::text, facts, reason, answered, attention,
    sends, extract(epoch FROM now() - progress_at)::float, extract(epoch FROM now() - created_at)::float,
    extract(epoch FROM now() - next_at)::float
FROM orders WHERE id = ANY(%s::uuid[]) ORDER BY id FOR UPDATE
"""
DUE: Final = """
SELECT id::text FROM orders WHERE open AND next_at <= now() - make_interval(secs => %s)
ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
"""
SAVE: Final = """
UPDATE orders o SET facts = string_to_array(s.facts, ','), status = s.status, reason = s.reason, open = s.open,
    answered = s.answered, attention = s.attention, sends = s.sends, updated_at = now(),
    progress_at = CASE WHEN s.progressed THEN now() ELSE o.progress_at END,
    next_at = CASE WHEN s.next_in IS NULL THEN o.next_at ELSE now() + make_interval(secs => s.next_in) END
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bool[], %s::bool[], %s::bool[], %s::int[], %s::bool[],
    %s::float[]) AS s(id, facts, status, reason, open, answered, attention, sends, progressed, next_in)
WHERE o.id = s.id
"""
KNOWN: Final = "SELECT message_id::text FROM inbox WHERE consumer = %s AND message_id = ANY(%s::uuid[])"
CLAIM: Final = """
INSERT INTO inbox (consumer, message_id, outcome)
SELECT %s, m, o FROM unnest(%s::uuid[], %s::text[]) AS handled(m, o)
"""
LOG: Final = """
INSERT INTO order_log (order_id, service, kind, type, message_id, causation_id, note)
SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::uuid[], %s::uuid[], %s::text[])
"""
TIMELINE: Final = """
SELECT at, service, kind, type, message_id::text, causation_id::text, note FROM order_log
WHERE order_id = %s ORDER BY seq
"""
PAGE: Final = "SELECT id::text, status FROM orders WHERE open AND status = %s ORDER BY id DESC LIMIT %s"
PRUNE: Final = """
WITH gone AS (DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {table} WHERE at < now() - make_interval(secs => %s) LIMIT 5000
)) RETURNING 1) SELECT count(*) FROM gone
"""
