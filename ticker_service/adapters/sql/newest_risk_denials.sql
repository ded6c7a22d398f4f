-- An account's newest denials, newest first.
SELECT account, at, told FROM risk_denial
WHERE account = %(account)s
ORDER BY number DESC LIMIT %(limit)s
