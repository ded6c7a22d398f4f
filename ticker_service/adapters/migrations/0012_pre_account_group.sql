-- Orders may name a group of accounts, and go on on another account of it: as another task of the
-- same key, when it is certain that nothing of the first is at its broker (I8).

INSERT INTO order_transition (from_state, to_state) VALUES
    ('READY', 'FAILED_OVER'),
    ('FAILED_OVER', 'ACKED'),
    ('FAILED_OVER', 'CANCELLED'),
    ('FAILED_OVER', 'FILLED'),
    ('FAILED_OVER', 'PARTIAL'),
    ('FAILED_OVER', 'REJECTED'),
    ('FAILED_OVER', 'WORKING');

ALTER TABLE order_task
    ADD COLUMN account_group text CHECK (length(account_group) BETWEEN 1 AND 200),
    ADD COLUMN origin_task_id uuid REFERENCES order_task (task_id),
    ADD COLUMN hop smallint NOT NULL DEFAULT 0 CHECK (hop BETWEEN 0 AND 100),
    ADD CONSTRAINT order_task_first_has_no_origin CHECK ((hop = 0) = (origin_task_id IS NULL));
COMMENT ON COLUMN order_task.account_group IS 'The group that the caller named.';
COMMENT ON COLUMN order_task.origin_task_id IS
    'The first task of the instruction, for one that goes on for it on another account.';
COMMENT ON COLUMN order_task.hop IS 'How many accounts the instruction has left.';

CREATE UNIQUE INDEX order_task_key ON order_task (principal, request_id, hop);
COMMENT ON INDEX order_task_key IS
    'Two tasks that begin with one idempotency key of a principal are impossible, and so are two
that go on for one.';
DROP INDEX order_task_request;

ALTER INDEX order_task_named RENAME TO order_task_named_once;
CREATE UNIQUE INDEX order_task_named ON order_task (principal, client_order_id, hop)
    WHERE kind NOT IN ('MODIFY', 'CANCEL');
COMMENT ON INDEX order_task_named IS
    'Two orders or jobs that a principal calls by one client_order_id are impossible.';
DROP INDEX order_task_named_once;

CREATE UNIQUE INDEX order_task_lineage ON order_task (origin_task_id, account)
    WHERE origin_task_id IS NOT NULL;
COMMENT ON INDEX order_task_lineage IS
    'An instruction that comes to an account again and again is impossible.';

CREATE FUNCTION check_lineage() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.account, NEW.account_group, NEW.origin_task_id, NEW.hop)
        IS DISTINCT FROM (OLD.account, OLD.account_group, OLD.origin_task_id, OLD.hop)
    THEN
        RAISE EXCEPTION 'Invariant: a task stays on its account, task_id=% % -> %',
            OLD.task_id, OLD.account, NEW.account
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER task_lineage BEFORE UPDATE ON order_task
    FOR EACH ROW EXECUTE FUNCTION check_lineage();

CREATE FUNCTION check_failed_over() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM order_task AS next
        WHERE next.origin_task_id = COALESCE(NEW.origin_task_id, NEW.task_id)
            AND next.hop = NEW.hop + 1
    ) THEN
        RAISE EXCEPTION 'Invariant: what failed over goes on somewhere, task_id=%', NEW.task_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER failed_over_task AFTER UPDATE ON order_task
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.state = 'FAILED_OVER') EXECUTE FUNCTION check_failed_over();

-- What goes on has the key, the body and the time of the one before, which is over for certain.
CREATE FUNCTION check_successor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM order_task AS former
        WHERE (former.task_id = NEW.origin_task_id OR former.origin_task_id = NEW.origin_task_id)
            AND former.hop = NEW.hop - 1
            AND former.state IN ('FAILED_OVER', 'REJECTED')
            AND (former.kind, former.principal, former.request_id, former.client_order_id,
                former.body_sha256, former.deadline)
                = (NEW.kind, NEW.principal, NEW.request_id, NEW.client_order_id,
                NEW.body_sha256, NEW.deadline)
            AND former.account_group IS NOT DISTINCT FROM NEW.account_group
    ) OR EXISTS (
        SELECT FROM order_task AS origin
        WHERE origin.task_id = NEW.origin_task_id AND origin.account = NEW.account
    ) THEN
        RAISE EXCEPTION 'Invariant: only what is over elsewhere goes on here, task_id=%',
            NEW.task_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER succeeding_task AFTER INSERT ON order_task
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.origin_task_id IS NOT NULL) EXECUTE FUNCTION check_successor();
