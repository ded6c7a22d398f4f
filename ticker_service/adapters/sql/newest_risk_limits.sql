-- The newest changes of the risk limits, newest first.
SELECT version, said, at FROM risk_limits ORDER BY number DESC LIMIT %(limit)s
