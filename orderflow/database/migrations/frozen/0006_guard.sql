-- Releases before partitions prune by ctid, which names a row within one partition only: on the whole table, their
-- DELETE would hit young rows of other partitions. They run beside this one during a rolling deploy.
CREATE FUNCTION {table}_is_dropped_by_partition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of {table} are deleted by dropping its partitions';
END $$;
CREATE TRIGGER {table}_is_dropped_by_partition BEFORE DELETE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION {table}_is_dropped_by_partition();
