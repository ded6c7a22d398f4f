-- Give an account's lock back.
SELECT pg_advisory_unlock(%(key)s::bigint) AS given_back
