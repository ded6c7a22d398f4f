-- Move a task one step with its event, and end the attempt if it ends one; no row when it moved.
-- writer_epoch is given for a step out of SENDING: only the newest writer says how a send ended,
-- and only the one that sent may say that nothing left (back to READY). It is not given for the
-- broker's yes to its sender: an order id is a fact, whoever has the account by now.
WITH writer AS (
    SELECT epoch FROM account_writer
    WHERE account = %(account)s AND epoch = %(writer_epoch)s
    FOR SHARE
),
moved AS (
    UPDATE order_task AS task SET
        state = %(state)s,
        version = task.version + 1,
        broker_order_id = COALESCE(%(broker_order_id)s, task.broker_order_id),
        broker_status = COALESCE(%(broker_status)s, task.broker_status),
        filled_quantity = COALESCE(%(filled_quantity)s, task.filled_quantity),
        average_price = COALESCE(%(average_price)s, task.average_price),
        reason_code = COALESCE(%(reason_code)s, task.reason_code),
        reason = COALESCE(%(reason)s, task.reason),
        facts = COALESCE(%(facts)s::jsonb, task.facts),
        updated_at = %(now)s
    WHERE task.task_id = %(task_id)s
        AND task.version = %(version)s
        AND task.state = %(from_state)s
        AND (%(writer_epoch)s::bigint IS NULL OR EXISTS (SELECT FROM writer))
        AND (
            %(from_state)s <> 'SENDING'
            OR %(state)s <> 'READY'
            OR task.writer_epoch = %(writer_epoch)s
        )
    RETURNING task.*
),
ended AS (
    UPDATE order_attempt AS attempt SET
        outcome = %(outcome)s,
        http_status = %(http_status)s,
        finished_at = %(now)s
    FROM moved
    WHERE %(outcome)s::text IS NOT NULL
        AND attempt.task_id = moved.task_id
        AND attempt.attempt = moved.attempt
        AND attempt.outcome IS NULL
),
numbered AS (
    INSERT INTO account_sequence AS sequence (account, last_seq)
    SELECT account, 1 FROM moved
    ON CONFLICT (account) DO UPDATE SET last_seq = sequence.last_seq + 1
    RETURNING last_seq
),
journalled AS (
    INSERT INTO order_event (
        task_id, version, event_id, account, account_seq, event, event_version, at,
        principal, client_order_id, state, data
    )
    SELECT
        task_id, version, %(event_id)s, account, last_seq, %(event)s, %(event_version)s,
        %(now)s, principal, client_order_id, state, %(data)s
    FROM moved CROSS JOIN numbered
)
SELECT moved.*, numbered.last_seq AS account_seq FROM moved CROSS JOIN numbered
