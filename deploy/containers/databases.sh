#!/bin/sh
# A database and a role for each service, which can connect to no other; run once by PostgreSQL's image, on an empty
# data folder. The providers' simulated ledger is a database of its own, as a real provider's would be elsewhere.
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
