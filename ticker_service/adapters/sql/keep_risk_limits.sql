-- Keep what limits from now on, unless the same was kept last.
INSERT INTO risk_limits (version, said, at)
SELECT %(version)s, %(said)s, %(at)s
WHERE %(version)s IS DISTINCT FROM (SELECT version FROM risk_limits ORDER BY number DESC LIMIT 1)
