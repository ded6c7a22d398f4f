-- How each breaker of an account stands, and for how many seconds by the database's own clock.
SELECT DISTINCT ON (breaker)
    breaker,
    after AS state,
    extract(epoch FROM clock_timestamp() - at)::float8 AS age_s
FROM account_breaker
WHERE account = %(account)s
ORDER BY breaker, number DESC
