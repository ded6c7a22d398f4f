-- The newest number of each account, held to the end of the transaction.
SELECT account, last_seq FROM account_sequence
WHERE account = ANY(%(accounts)s::text[])
FOR SHARE
