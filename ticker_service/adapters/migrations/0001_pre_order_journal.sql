-- The order journal: what was asked, every physical send, every fact, one writer per account.
-- The database refuses what must never be, whoever asks (invariants I1-I6, I9).

CREATE TABLE order_transition (
    from_state text NOT NULL,
    to_state text NOT NULL,
    PRIMARY KEY (from_state, to_state)
);
COMMENT ON TABLE order_transition IS
    'Which state may follow which; the same pairs as domain.order_state.TRANSITIONS.';

INSERT INTO order_transition (from_state, to_state) VALUES
    ('RECEIVED', 'CANCELLED_LOCAL'),
    ('RECEIVED', 'EXPIRED'),
    ('RECEIVED', 'READY'),
    ('RECEIVED', 'REJECTED_LOCAL'),
    ('READY', 'CANCELLED_LOCAL'),
    ('READY', 'EXPIRED'),
    ('READY', 'REJECTED_LOCAL'),
    ('READY', 'SENDING'),
    ('SENDING', 'ACKED'),
    ('SENDING', 'CANCELLED'),
    ('SENDING', 'FILLED'),
    ('SENDING', 'PARTIAL'),
    ('SENDING', 'READY'),
    ('SENDING', 'REJECTED'),
    ('SENDING', 'UNKNOWN'),
    ('SENDING', 'WORKING'),
    ('UNKNOWN', 'ACKED'),
    ('UNKNOWN', 'CANCELLED'),
    ('UNKNOWN', 'FILLED'),
    ('UNKNOWN', 'MANUAL'),
    ('UNKNOWN', 'NOT_PLACED'),
    ('UNKNOWN', 'PARTIAL'),
    ('UNKNOWN', 'REJECTED'),
    ('UNKNOWN', 'WORKING'),
    ('ACKED', 'ACKED'),
    ('ACKED', 'CANCELLED'),
    ('ACKED', 'FILLED'),
    ('ACKED', 'PARTIAL'),
    ('ACKED', 'REJECTED'),
    ('ACKED', 'WORKING'),
    ('WORKING', 'CANCELLED'),
    ('WORKING', 'FILLED'),
    ('WORKING', 'PARTIAL'),
    ('WORKING', 'REJECTED'),
    ('WORKING', 'WORKING'),
    ('PARTIAL', 'CANCELLED'),
    ('PARTIAL', 'FILLED'),
    ('PARTIAL', 'PARTIAL'),
    ('PARTIAL', 'REJECTED'),
    ('PARTIAL', 'WORKING'),
    ('CANCELLED', 'CANCELLED'),
    ('CANCELLED', 'FILLED'),
    ('CANCELLED', 'PARTIAL'),
    ('CANCELLED', 'WORKING'),
    ('REJECTED', 'FILLED'),
    ('REJECTED', 'PARTIAL'),
    ('REJECTED', 'WORKING'),
    ('NOT_PLACED', 'CANCELLED'),
    ('NOT_PLACED', 'FILLED'),
    ('NOT_PLACED', 'PARTIAL'),
    ('NOT_PLACED', 'WORKING'),
    ('EXPIRED', 'FILLED'),
    ('EXPIRED', 'PARTIAL'),
    ('EXPIRED', 'WORKING'),
    ('MANUAL', 'CANCELLED'),
    ('MANUAL', 'FILLED'),
    ('MANUAL', 'PARTIAL'),
    ('MANUAL', 'REJECTED'),
    ('MANUAL', 'WORKING');

CREATE TABLE account_writer (
    account text PRIMARY KEY,
    epoch bigint NOT NULL CHECK (epoch > 0),
    acquired_at timestamptz NOT NULL
);
COMMENT ON TABLE account_writer IS
    'The newest writer of an account. A send holds the row FOR SHARE, so a new epoch waits for it.';

CREATE TABLE account_sequence (
    account text PRIMARY KEY,
    last_seq bigint NOT NULL CHECK (last_seq > 0)
);
COMMENT ON TABLE account_sequence IS
    'The last account_seq. Its row stays locked to the commit: numbers have no gap and become
visible in their own order, so a reader that is past a number has missed none before it.';

-- fillfactor: a task is updated four to eight times; the room keeps its versions on one page.
CREATE TABLE order_task (
    task_id uuid PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('PLACE', 'MODIFY', 'CANCEL')),
    account text NOT NULL CHECK (length(account) BETWEEN 1 AND 200),
    principal text NOT NULL CHECK (length(principal) BETWEEN 1 AND 200),
    request_id text NOT NULL CHECK (length(request_id) BETWEEN 1 AND 200),
    client_order_id text NOT NULL CHECK (length(client_order_id) BETWEEN 1 AND 200),
    body jsonb NOT NULL CHECK (jsonb_typeof(body) = 'object'),
    body_sha256 bytea NOT NULL CHECK (octet_length(body_sha256) = 32),
    state text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    tag text CHECK (tag ~ '^[A-Za-z0-9]{1,20}$'),
    writer_epoch bigint,
    deadline timestamptz NOT NULL,
    send_not_after timestamptz,
    intent_at timestamptz,
    broker_order_id text,
    broker_status text,
    filled_quantity bigint NOT NULL DEFAULT 0 CHECK (filled_quantity >= 0),
    average_price numeric CHECK (average_price >= 0 AND average_price < 'Infinity'),
    reason_code text,
    reason text,
    target_task_id uuid REFERENCES order_task (task_id),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CHECK (kind <> 'PLACE' OR target_task_id IS NULL),
    CHECK ((attempt = 0) = (tag IS NULL))
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);
COMMENT ON TABLE order_task IS 'The present state of each instruction of a caller.';
COMMENT ON COLUMN order_task.body IS
    'Kite''s form fields as text, so that a price is the digits the caller wrote.';

CREATE UNIQUE INDEX order_task_request ON order_task (principal, request_id);
COMMENT ON INDEX order_task_request IS
    'Two tasks for one idempotency key of a principal are impossible.';

CREATE UNIQUE INDEX order_task_client_order ON order_task (principal, client_order_id)
    WHERE kind = 'PLACE';
COMMENT ON INDEX order_task_client_order IS
    'Two orders that a principal calls by one client_order_id are impossible.';

CREATE UNIQUE INDEX order_task_tag ON order_task (account, tag) WHERE tag IS NOT NULL;
COMMENT ON INDEX order_task_tag IS
    'Two tasks of an account at the broker under one tag are impossible.';

CREATE INDEX order_task_unsent ON order_task (account, created_at, task_id)
    WHERE state IN ('RECEIVED', 'READY');
COMMENT ON INDEX order_task_unsent IS
    'Looking for work among all orders ever given is impossible: it holds the unsent ones only.';

CREATE INDEX order_task_in_doubt ON order_task (account, created_at, task_id)
    WHERE state IN ('SENDING', 'UNKNOWN');
COMMENT ON INDEX order_task_in_doubt IS
    'An order in doubt that recovery overlooks for want of time is impossible: they are few here.';

CREATE INDEX order_task_live ON order_task (account, created_at, task_id)
    WHERE kind = 'PLACE' AND state IN ('ACKED', 'WORKING', 'PARTIAL');
COMMENT ON INDEX order_task_live IS
    'A poll of what rests at the broker that grows with history is impossible.';

CREATE INDEX order_task_account ON order_task (account, state, created_at, task_id);
COMMENT ON INDEX order_task_account IS 'Serves questions about what has ended.';

CREATE INDEX order_task_principal ON order_task (principal, created_at DESC, task_id DESC);
COMMENT ON INDEX order_task_principal IS 'Serves a caller''s list of newest tasks.';

CREATE TABLE order_attempt (
    task_id uuid NOT NULL REFERENCES order_task (task_id),
    attempt integer NOT NULL CHECK (attempt > 0),
    account text NOT NULL,
    tag text NOT NULL,
    writer_epoch bigint NOT NULL,
    body_sha256 bytea NOT NULL,
    intent_at timestamptz NOT NULL,
    send_not_after timestamptz NOT NULL,
    outcome text,
    http_status integer,
    finished_at timestamptz,
    PRIMARY KEY (task_id, attempt),
    CHECK ((outcome IS NULL) = (finished_at IS NULL)),
    CHECK (http_status IS NULL OR outcome IS NOT NULL)
) WITH (fillfactor = 80);
COMMENT ON TABLE order_attempt IS
    'One row for each physical send, written before its first byte; the outcome is filled in once.';

CREATE UNIQUE INDEX order_attempt_tag ON order_attempt (account, tag);
COMMENT ON INDEX order_attempt_tag IS
    'Two sends of an account under one tag are impossible, so an order found at the broker names
exactly one attempt.';

CREATE TABLE order_event (
    task_id uuid NOT NULL REFERENCES order_task (task_id),
    version integer NOT NULL CHECK (version > 0),
    event_id uuid NOT NULL,
    account text NOT NULL,
    account_seq bigint NOT NULL CHECK (account_seq > 0),
    event text NOT NULL,
    event_version smallint NOT NULL CHECK (event_version > 0),
    at timestamptz NOT NULL,
    principal text NOT NULL,
    client_order_id text NOT NULL,
    state text NOT NULL,
    data jsonb NOT NULL,
    PRIMARY KEY (task_id, version)
);
COMMENT ON TABLE order_event IS
    'The journal: one fact a row, never changed; the primary key makes two facts at one version of
a task impossible.';

CREATE UNIQUE INDEX order_event_id ON order_event (event_id);
COMMENT ON INDEX order_event_id IS 'Journalling one event twice is impossible.';

CREATE UNIQUE INDEX order_event_account_seq ON order_event (account, account_seq);
COMMENT ON INDEX order_event_account_seq IS
    'Two events with one number in an account''s log are impossible.';

-- Checked at commit, because the task comes before its event and the event refers to its task.
ALTER TABLE order_task ADD CONSTRAINT order_task_has_its_event
    FOREIGN KEY (task_id, version) REFERENCES order_event (task_id, version)
    DEFERRABLE INITIALLY DEFERRED;
COMMENT ON CONSTRAINT order_task_has_its_event ON order_task IS
    'A state that no event of the journal explains is impossible.';

CREATE TABLE event_delivery (
    account text NOT NULL,
    sink text NOT NULL,
    account_seq bigint NOT NULL CHECK (account_seq >= 0),
    PRIMARY KEY (account, sink)
);
COMMENT ON TABLE event_delivery IS
    'Up to which number a sink has had an account''s events; a cursor, so that events stay as they
are.';

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Invariant: % of % is refused, it is only ever added to', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE FUNCTION check_new_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> 'RECEIVED' OR NEW.version <> 1 OR NEW.attempt <> 0
        OR NEW.writer_epoch IS NOT NULL OR NEW.broker_order_id IS NOT NULL
        OR NEW.filled_quantity <> 0
    THEN
        RAISE EXCEPTION 'Invariant: a task begins unsent in RECEIVED at version 1, task_id=%',
            NEW.task_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION check_moved_task() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    broken text;
BEGIN
    IF NOT EXISTS (
        SELECT FROM order_transition
        WHERE from_state = OLD.state AND to_state = NEW.state
    ) THEN
        broken := 'this is no transition';
    ELSIF NEW.version <> OLD.version + 1 THEN
        broken := 'each step is one version';
    ELSIF NEW.filled_quantity < OLD.filled_quantity THEN
        broken := 'the filled quantity never falls';
    ELSIF (NEW.task_id, NEW.kind, NEW.principal, NEW.request_id, NEW.client_order_id, NEW.body,
            NEW.body_sha256, NEW.deadline, NEW.created_at)
        IS DISTINCT FROM (OLD.task_id, OLD.kind, OLD.principal, OLD.request_id,
            OLD.client_order_id, OLD.body, OLD.body_sha256, OLD.deadline, OLD.created_at)
        OR NEW.target_task_id IS DISTINCT FROM OLD.target_task_id
    THEN
        broken := 'what the caller asked for never changes';
    ELSIF NEW.account <> OLD.account AND NEW.state <> 'READY' THEN
        -- Only what was certainly not sent may go to another account (I8).
        broken := 'the account never changes once bytes may have left';
    ELSIF NEW.state = 'SENDING' THEN
        IF NEW.attempt <> OLD.attempt + 1 OR NEW.tag IS NULL OR NEW.tag = OLD.tag
            OR NEW.writer_epoch IS NULL OR NEW.writer_epoch < OLD.writer_epoch
            OR NEW.intent_at IS NULL OR NEW.send_not_after IS NULL
        THEN
            broken := 'a send is a new attempt with a new tag, an epoch and a time limit';
        END IF;
    ELSIF (NEW.attempt, NEW.tag, NEW.writer_epoch, NEW.intent_at, NEW.send_not_after)
        IS DISTINCT FROM (OLD.attempt, OLD.tag, OLD.writer_epoch, OLD.intent_at,
            OLD.send_not_after)
    THEN
        broken := 'tag and attempt change on the way into SENDING only';
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION 'Invariant: %, task_id=% version=% % -> %',
            broken, OLD.task_id, OLD.version, OLD.state, NEW.state
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION check_ended_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.outcome IS NOT NULL OR NEW.outcome IS NULL
        OR (NEW.task_id, NEW.attempt, NEW.account, NEW.tag, NEW.writer_epoch, NEW.body_sha256,
            NEW.intent_at, NEW.send_not_after)
        IS DISTINCT FROM (OLD.task_id, OLD.attempt, OLD.account, OLD.tag, OLD.writer_epoch,
            OLD.body_sha256, OLD.intent_at, OLD.send_not_after)
    THEN
        RAISE EXCEPTION 'Invariant: an attempt gets its outcome once and nothing else, task_id=% attempt=%',
            OLD.task_id, OLD.attempt USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION check_rising_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.epoch <= OLD.epoch OR NEW.account <> OLD.account THEN
        RAISE EXCEPTION 'Invariant: a writer_epoch only rises, account=% epoch=%',
            OLD.account, OLD.epoch USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION check_next_number() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.last_seq <> OLD.last_seq + 1 OR NEW.account <> OLD.account THEN
        RAISE EXCEPTION 'Invariant: an account_seq counts up by one, account=% last_seq=%',
            OLD.account, OLD.last_seq USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER new_task BEFORE INSERT ON order_task
    FOR EACH ROW EXECUTE FUNCTION check_new_task();
CREATE TRIGGER moved_task BEFORE UPDATE ON order_task
    FOR EACH ROW EXECUTE FUNCTION check_moved_task();
CREATE TRIGGER kept_task BEFORE DELETE OR TRUNCATE ON order_task
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER ended_attempt BEFORE UPDATE ON order_attempt
    FOR EACH ROW EXECUTE FUNCTION check_ended_attempt();
CREATE TRIGGER kept_attempt BEFORE DELETE OR TRUNCATE ON order_attempt
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER kept_event BEFORE UPDATE OR DELETE OR TRUNCATE ON order_event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER rising_epoch BEFORE UPDATE ON account_writer
    FOR EACH ROW EXECUTE FUNCTION check_rising_epoch();
CREATE TRIGGER kept_writer BEFORE DELETE OR TRUNCATE ON account_writer
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TRIGGER next_number BEFORE UPDATE ON account_sequence
    FOR EACH ROW EXECUTE FUNCTION check_next_number();
CREATE TRIGGER kept_number BEFORE DELETE OR TRUNCATE ON account_sequence
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
