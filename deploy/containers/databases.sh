#!/bin/sh
# Creates a database and a role for each service; a role can connect to no other database. PostgreSQL's image runs this
# once, on an empty data folder. The simulated providers' ledger has a database of its own, as real providers would.
set -eu

create() {
    psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres -v name="$1" -v password="$2" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

create orderflow_order "$ORDER_DATABASE_PASSWORD"
create orderflow_inventory "$INVENTORY_DATABASE_PASSWORD"
create orderflow_payment "$PAYMENT_DATABASE_PASSWORD"
create orderflow_shipping "$SHIPPING_DATABASE_PASSWORD"
create orderflow_orchestrator "$ORCHESTRATOR_DATABASE_PASSWORD"
create orderflow_providers "$PROVIDERS_DATABASE_PASSWORD"
psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres \
    -c 'REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC'
