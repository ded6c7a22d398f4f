-- Take the lock that one session at a time has for an account; it ends with the session.
SELECT pg_try_advisory_lock(%(key)s::bigint) AS taken
