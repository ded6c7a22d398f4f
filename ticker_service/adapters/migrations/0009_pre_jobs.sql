-- Jobs: what is carried out by several orders, its children. A job is an instruction of a caller as
-- any other, with its key, its version and its events; its states are its own.

ALTER TABLE order_task
    ADD COLUMN job_id uuid REFERENCES order_task (task_id),
    ADD COLUMN leg integer CHECK (leg > 0),
    ADD COLUMN slice integer CHECK (slice > 0),
    ADD COLUMN facts jsonb CHECK (jsonb_typeof(facts) = 'object'),
    ADD CONSTRAINT order_task_child CHECK (
        (job_id IS NULL) = (leg IS NULL) AND (job_id IS NULL) = (slice IS NULL)
        AND (job_id IS NULL OR kind IN ('PLACE', 'MODIFY', 'CANCEL'))
    ),
    DROP CONSTRAINT order_task_kind_check,
    ADD CONSTRAINT order_task_kind_check
        CHECK (kind IN ('PLACE', 'MODIFY', 'CANCEL', 'BASKET', 'SLICES', 'EXIT'));
COMMENT ON COLUMN order_task.facts IS
    'What we know of a job beside its state, such as how it is cut; the newest event that tells it.';

INSERT INTO order_transition (from_state, to_state) VALUES
    ('RUNNING', 'RUNNING'),
    ('RUNNING', 'STOPPING'),
    ('RUNNING', 'DONE'),
    ('RUNNING', 'ESCALATED'),
    ('STOPPING', 'STOPPING'),
    ('STOPPING', 'DONE'),
    ('STOPPING', 'ESCALATED');

CREATE UNIQUE INDEX order_task_named ON order_task (principal, client_order_id)
    WHERE kind NOT IN ('MODIFY', 'CANCEL');
COMMENT ON INDEX order_task_named IS
    'Two orders or jobs that a principal calls by one client_order_id are impossible.';
DROP INDEX order_task_client_order;

CREATE UNIQUE INDEX order_task_part ON order_task (job_id, leg, slice)
    WHERE kind = 'PLACE' AND job_id IS NOT NULL;
COMMENT ON INDEX order_task_part IS 'Two orders for one part of a job are impossible.';

CREATE INDEX order_task_child ON order_task (job_id) WHERE job_id IS NOT NULL;
COMMENT ON INDEX order_task_child IS
    'Finding the children of one job by reading all orders is impossible.';

CREATE INDEX order_task_job ON order_task (account, created_at, task_id)
    WHERE state IN ('RUNNING', 'STOPPING');
COMMENT ON INDEX order_task_job IS
    'Finding the jobs that are open by reading all that ever were is impossible.';

CREATE OR REPLACE FUNCTION check_new_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.state, NEW.kind IN ('PLACE', 'MODIFY', 'CANCEL'))
            NOT IN (('RECEIVED', true), ('RUNNING', false))
        OR NEW.version <> 1 OR NEW.attempt <> 0
        OR NEW.writer_epoch IS NOT NULL OR NEW.broker_order_id IS NOT NULL
        OR NEW.filled_quantity <> 0
    THEN
        RAISE EXCEPTION
            'Invariant: a task begins unsent in RECEIVED, a job RUNNING, at version 1, task_id=%',
            NEW.task_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION check_kept_child() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.job_id, NEW.leg, NEW.slice) IS DISTINCT FROM (OLD.job_id, OLD.leg, OLD.slice) THEN
        RAISE EXCEPTION 'Invariant: which part of which job an order is never changes, task_id=%',
            OLD.task_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER kept_child BEFORE UPDATE ON order_task
    FOR EACH ROW EXECUTE FUNCTION check_kept_child();
