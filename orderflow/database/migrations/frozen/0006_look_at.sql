-- Of a table with owners' deadlines. `next_at` changes with each step of an order; `look_at` has an index and is never
-- later: the owner postpones it to `next_at` only when it finds the row. So a step updates no index for it, and a look
-- costs what is due, not what is open. Releases before partitions don't know `look_at`, hence the trigger.
CREATE FUNCTION {table}_look_at_next_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.look_at := NEW.next_at;
    RETURN NEW;
END $$;
CREATE TRIGGER {table}_look_at_next_at BEFORE UPDATE ON {table}
FOR EACH ROW WHEN (NEW.look_at > NEW.next_at) EXECUTE FUNCTION {table}_look_at_next_at();
