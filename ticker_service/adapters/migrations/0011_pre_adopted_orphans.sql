-- An order of the broker's that has a tag of ours and no task may be taken into the journal by a
-- person. Its task begins where the broker has it: it was never unsent here.

CREATE OR REPLACE FUNCTION check_new_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.kind = 'PLACE' AND NEW.version = 1 AND NEW.attempt = 1 AND NEW.tag IS NOT NULL
        AND NEW.writer_epoch IS NOT NULL AND NEW.broker_order_id IS NOT NULL
        AND NEW.job_id IS NULL
        AND NEW.state IN ('ACKED', 'WORKING', 'PARTIAL', 'FILLED', 'CANCELLED', 'REJECTED')
    THEN
        RETURN NEW;
    END IF;
    IF (NEW.state, NEW.kind IN ('PLACE', 'MODIFY', 'CANCEL'))
            NOT IN (('RECEIVED', true), ('RUNNING', false))
        OR NEW.version <> 1 OR NEW.attempt <> 0
        OR NEW.writer_epoch IS NOT NULL OR NEW.broker_order_id IS NOT NULL
        OR NEW.filled_quantity <> 0
    THEN
        RAISE EXCEPTION
            'Invariant: a task begins unsent in RECEIVED, a job RUNNING, an orphan at the broker, at version 1, task_id=%',
            NEW.task_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;
