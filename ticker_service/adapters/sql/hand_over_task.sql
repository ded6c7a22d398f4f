-- End a task here and let another go on for it on another account; no row when it moved.
-- One statement: either the first has ended and the second is there, or neither. Both accounts'
-- writers are held FOR SHARE to the commit, so that only who has both does this (I6, I8). Each
-- account's log gets its event; the two counters are locked in the order of their names, as
-- everybody's who locks both.
WITH writers AS (
    SELECT account, epoch FROM account_writer
    WHERE (account = %(account)s AND epoch = %(writer_epoch)s)
        OR (account = %(to_account)s AND epoch = %(to_writer_epoch)s)
    ORDER BY account
    FOR SHARE
),
moved AS (
    UPDATE order_task AS task SET
        state = %(state)s,
        version = task.version + 1,
        reason_code = COALESCE(%(reason_code)s, task.reason_code),
        reason = COALESCE(%(reason)s, task.reason),
        updated_at = %(now)s
    WHERE task.task_id = %(task_id)s
        AND task.account = %(account)s
        AND task.version = %(version)s
        AND task.state = %(from_state)s
        AND (SELECT count(*) FROM writers) = 2
        AND (
            %(from_state)s <> 'SENDING'
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
succeeding AS (
    INSERT INTO order_task (
        task_id, kind, account, principal, request_id, client_order_id, body, body_sha256,
        state, version, deadline, target_task_id, created_at, updated_at,
        account_group, origin_task_id, hop, facts
    )
    SELECT
        %(to_task_id)s, kind, %(to_account)s, principal, request_id, client_order_id, body,
        body_sha256, 'RECEIVED', 1, deadline, %(to_target_task_id)s, %(now)s, %(now)s,
        account_group, COALESCE(origin_task_id, task_id), hop + 1, %(to_facts)s::jsonb
    FROM moved
    RETURNING *
),
stepped AS (
    SELECT
        task_id, version, account, principal, client_order_id, state,
        %(event_id)s::uuid AS event_id, %(event)s::text AS event,
        %(event_version)s::smallint AS event_version, %(data)s::jsonb AS data
    FROM moved
    UNION ALL
    SELECT
        task_id, version, account, principal, client_order_id, state,
        %(to_event_id)s::uuid, %(to_event)s::text,
        %(to_event_version)s::smallint, %(to_data)s::jsonb
    FROM succeeding
),
numbered AS (
    INSERT INTO account_sequence AS sequence (account, last_seq)
    SELECT account, 1 FROM stepped ORDER BY account
    ON CONFLICT (account) DO UPDATE SET last_seq = sequence.last_seq + 1
    RETURNING account, last_seq
),
journalled AS (
    INSERT INTO order_event (
        task_id, version, event_id, account, account_seq, event, event_version, at,
        principal, client_order_id, state, data
    )
    SELECT
        task_id, version, event_id, account, last_seq, event, event_version, %(now)s,
        principal, client_order_id, state, data
    FROM stepped JOIN numbered USING (account)
)
SELECT * FROM succeeding
