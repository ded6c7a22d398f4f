-- Journal an instruction and its first event; no row when its key is already taken.
-- A child's order is taken only while its job runs: the job's row is held FOR SHARE to the commit,
-- so a job that stops either is seen here or waits for us, and its stop knows every child.
-- One statement is one transaction and one round trip. Of many callers with one key the database
-- lets one insert; the others wait for its commit and then find nothing to do.
WITH job AS (
    SELECT task_id FROM order_task
    WHERE task_id = %(job_id)s::uuid AND account = %(account)s AND state = 'RUNNING'
    FOR SHARE
),
admitted AS (
    INSERT INTO order_task (
        task_id, kind, account, principal, request_id, client_order_id, body, body_sha256,
        state, version, deadline, target_task_id, created_at, updated_at, job_id, leg, slice,
        facts, account_group
    )
    SELECT
        %(task_id)s, %(kind)s, %(account)s, %(principal)s, %(request_id)s, %(client_order_id)s,
        %(body)s, %(body_sha256)s, %(state)s, 1, %(deadline)s, %(target_task_id)s::uuid,
        %(received_at)s, %(received_at)s, %(job_id)s::uuid, %(leg)s::integer,
        %(slice)s::integer, %(facts)s::jsonb, %(account_group)s::text
    WHERE %(job_id)s::uuid IS NULL OR %(kind)s::text <> 'PLACE' OR EXISTS (SELECT FROM job)
    ON CONFLICT DO NOTHING
    RETURNING *
),
numbered AS (
    INSERT INTO account_sequence AS sequence (account, last_seq)
    SELECT account, 1 FROM admitted
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
    FROM admitted CROSS JOIN numbered
)
SELECT admitted.*, numbered.last_seq AS account_seq FROM admitted CROSS JOIN numbered
