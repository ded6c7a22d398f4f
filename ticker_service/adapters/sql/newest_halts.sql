-- How each reason that ever halted an account stands now.
SELECT DISTINCT ON (code) * FROM account_halt
WHERE account = %(account)s
ORDER BY code, number DESC
