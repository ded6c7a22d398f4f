-- Keep a denial, and of the account's older ones so many as are kept.
WITH added AS (
    INSERT INTO risk_denial (account, at, told) VALUES (%(account)s, %(at)s, %(told)s)
)
DELETE FROM risk_denial
WHERE account = %(account)s AND number <= (
    SELECT number FROM risk_denial
    WHERE account = %(account)s
    ORDER BY number DESC OFFSET %(older)s LIMIT 1
)
