-- Commit the intent to send: READY to SENDING, one attempt row, one event; no row when it moved.
-- The writer's row is held FOR SHARE to the commit, so a newer epoch either is seen here or waits
-- for us: two sends of an account never overlap in epochs (I6).
-- What goes on for another account's task is not sent when that has surfaced at its broker (I8).
WITH writer AS (
    SELECT epoch FROM account_writer
    WHERE account = %(account)s AND epoch = %(writer_epoch)s
    FOR SHARE
),
moved AS (
    UPDATE order_task AS task SET
        state = 'SENDING',
        version = task.version + 1,
        attempt = task.attempt + 1,
        tag = %(tag)s,
        writer_epoch = writer.epoch,
        intent_at = %(now)s,
        send_not_after = %(send_not_after)s,
        updated_at = %(now)s
    FROM writer
    WHERE task.task_id = %(task_id)s
        AND task.account = %(account)s
        AND task.version = %(version)s
        AND task.state = 'READY'
        AND (task.origin_task_id IS NULL OR NOT EXISTS (
            SELECT FROM order_task AS earlier
            WHERE (earlier.task_id = task.origin_task_id
                    OR earlier.origin_task_id = task.origin_task_id)
                AND earlier.hop < task.hop
                AND earlier.state NOT IN ('FAILED_OVER', 'REJECTED')
        ))
    RETURNING task.*
),
intended AS (
    INSERT INTO order_attempt (
        task_id, attempt, account, tag, writer_epoch, body_sha256, intent_at, send_not_after
    )
    SELECT
        task_id, attempt, account, tag, writer_epoch, body_sha256, intent_at, send_not_after
    FROM moved
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
