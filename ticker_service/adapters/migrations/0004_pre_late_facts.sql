-- What the broker shows outweighs whatever we said of an order, also that it was never sent; and an
-- order that rests ends with its trading day.

INSERT INTO order_transition (from_state, to_state) VALUES
    ('READY', 'ACKED'),
    ('READY', 'CANCELLED'),
    ('READY', 'FILLED'),
    ('READY', 'PARTIAL'),
    ('READY', 'REJECTED'),
    ('READY', 'WORKING'),
    ('ACKED', 'MANUAL'),
    ('WORKING', 'MANUAL'),
    ('PARTIAL', 'MANUAL'),
    ('REJECTED', 'ACKED'),
    ('REJECTED', 'CANCELLED'),
    ('NOT_PLACED', 'ACKED'),
    ('NOT_PLACED', 'REJECTED'),
    ('EXPIRED', 'ACKED'),
    ('EXPIRED', 'CANCELLED'),
    ('EXPIRED', 'REJECTED'),
    ('REJECTED_LOCAL', 'ACKED'),
    ('REJECTED_LOCAL', 'CANCELLED'),
    ('REJECTED_LOCAL', 'FILLED'),
    ('REJECTED_LOCAL', 'PARTIAL'),
    ('REJECTED_LOCAL', 'REJECTED'),
    ('REJECTED_LOCAL', 'WORKING'),
    ('CANCELLED_LOCAL', 'ACKED'),
    ('CANCELLED_LOCAL', 'CANCELLED'),
    ('CANCELLED_LOCAL', 'FILLED'),
    ('CANCELLED_LOCAL', 'PARTIAL'),
    ('CANCELLED_LOCAL', 'REJECTED'),
    ('CANCELLED_LOCAL', 'WORKING'),
    ('MANUAL', 'ACKED'),
    ('FILLED', 'FILLED');

CREATE FUNCTION check_sent_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.attempt = 0
        AND NEW.state IN ('ACKED', 'WORKING', 'PARTIAL', 'FILLED', 'CANCELLED', 'REJECTED')
    THEN
        RAISE EXCEPTION 'Invariant: what was never sent is not at the broker, task_id=% % -> %',
            OLD.task_id, OLD.state, NEW.state USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER sent_task BEFORE UPDATE ON order_task
    FOR EACH ROW EXECUTE FUNCTION check_sent_task();

-- Prices at exchanges have been negative; only what is no number is none.
ALTER TABLE order_task DROP CONSTRAINT order_task_average_price_check;
ALTER TABLE order_task ADD CONSTRAINT order_task_average_price_check
    CHECK (average_price > '-Infinity' AND average_price < 'Infinity');

CREATE INDEX order_task_broker_order ON order_task (account, broker_order_id)
    WHERE kind = 'PLACE' AND broker_order_id IS NOT NULL;
COMMENT ON INDEX order_task_broker_order IS
    'Losing sight of an order because the broker lost its tag is impossible.';

CREATE INDEX order_task_of_day ON order_task (account, intent_at)
    WHERE kind = 'PLACE' AND broker_order_id IS NOT NULL;
COMMENT ON INDEX order_task_of_day IS
    'Taking a book for whole that lacks an order of the day we know of is impossible.';
