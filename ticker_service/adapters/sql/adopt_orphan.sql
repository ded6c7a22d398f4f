-- Journal an order of the broker's that has a tag of ours and no task: the task as the book shows
-- it, the send that must have been, and the event that tells both; no row when its key is taken.
-- It never was RECEIVED here, so nothing can send it. The writer's row is held as for a claim.
WITH writer AS (
    SELECT epoch FROM account_writer
    WHERE account = %(account)s AND epoch = %(writer_epoch)s
    FOR SHARE
),
adopted AS (
    INSERT INTO order_task (
        task_id, kind, account, principal, request_id, client_order_id, body, body_sha256,
        state, version, attempt, tag, writer_epoch, deadline, send_not_after, intent_at,
        broker_order_id, broker_status, filled_quantity, average_price, created_at, updated_at,
        facts
    )
    SELECT
        %(task_id)s, 'PLACE', %(account)s, %(principal)s, %(request_id)s, %(client_order_id)s,
        %(body)s, %(body_sha256)s, %(state)s, 1, 1, %(tag)s, writer.epoch, %(deadline)s,
        %(sent_at)s, %(sent_at)s, %(broker_order_id)s, %(broker_status)s, %(filled_quantity)s,
        %(average_price)s::numeric, %(received_at)s, %(received_at)s, %(facts)s::jsonb
    FROM writer
    ON CONFLICT DO NOTHING
    RETURNING *
),
sent AS (
    INSERT INTO order_attempt (
        task_id, attempt, account, tag, writer_epoch, body_sha256, intent_at, send_not_after,
        outcome, finished_at
    )
    SELECT
        task_id, 1, account, tag, writer_epoch, body_sha256, intent_at, send_not_after,
        %(outcome)s, created_at
    FROM adopted
),
numbered AS (
    INSERT INTO account_sequence AS sequence (account, last_seq)
    SELECT account, 1 FROM adopted
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
        created_at, principal, client_order_id, state, %(data)s
    FROM adopted CROSS JOIN numbered
)
SELECT * FROM adopted
