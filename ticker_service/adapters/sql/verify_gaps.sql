-- Where an account's numbers do not count up by one; read in the order of the unique index.
SELECT account, account_seq, seq_before FROM (
    SELECT
        account,
        account_seq,
        lag(account_seq, 1, 0::bigint) OVER (PARTITION BY account ORDER BY account_seq)
            AS seq_before
    FROM order_event
    WHERE %(account)s::text IS NULL OR account = %(account)s
) AS numbered
WHERE account_seq <> seq_before + 1
ORDER BY account, account_seq
