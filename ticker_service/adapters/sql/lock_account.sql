-- Take the lock that one session at a time has for an account; it ends with the session.
-- PostgreSQL counts how often a session took a lock. A session that has it already, because an
-- answer was lost, takes it no second time, so that one unlock gives it back.
SELECT CASE
    WHEN EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND pid = pg_backend_pid()
            AND ((classid::bigint << 32) | objid::bigint) = %(key)s::bigint
            AND objsubid = 1
            AND granted
    ) THEN true
    ELSE pg_try_advisory_lock(%(key)s::bigint)
END AS taken
