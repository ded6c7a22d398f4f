-- What people have stopped, kept so that whichever machine runs an account next stops it too.

CREATE TABLE kill_switch (
    switch_id uuid PRIMARY KEY,
    scope text NOT NULL CHECK (length(scope) BETWEEN 1 AND 200),
    level text NOT NULL CHECK (length(level) BETWEEN 1 AND 64),
    why text NOT NULL CHECK (length(why) <= 500),
    by_whom text NOT NULL,
    since timestamptz NOT NULL,
    released timestamptz,
    released_by text,
    CHECK ((released IS NULL) = (released_by IS NULL))
);
COMMENT ON TABLE kill_switch IS
    'A switch is thrown once and released once; neither is undone and none is forgotten.';

CREATE INDEX kill_switch_standing ON kill_switch (since) WHERE released IS NULL;

CREATE FUNCTION release_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.released IS NOT NULL
        OR NEW.released IS NULL
        OR (NEW.switch_id, NEW.scope, NEW.level, NEW.why, NEW.by_whom, NEW.since)
            IS DISTINCT FROM
            (OLD.switch_id, OLD.scope, OLD.level, OLD.why, OLD.by_whom, OLD.since)
    THEN
        RAISE EXCEPTION 'a kill switch can only be released, once, switch_id=%', OLD.switch_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END;
$$;

CREATE TRIGGER released_switch BEFORE UPDATE ON kill_switch
    FOR EACH ROW EXECUTE FUNCTION release_only();
CREATE TRIGGER kept_switch BEFORE DELETE OR TRUNCATE ON kill_switch
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
