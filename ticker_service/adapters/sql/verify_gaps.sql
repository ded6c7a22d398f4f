-- Where an account's numbers do not count up by one from a number on; read in the order of the unique index.
SELECT account, account_seq, seq_before FROM (
    SELECT
        account,
        account_seq,
        lag(account_seq, 1, %(after_seq)s::bigint) OVER (PARTITION BY account ORDER BY account_seq)
            AS seq_before
    FROM order_event
    WHERE (%(account)s::text IS NULL OR account = %(account)s) AND account_seq > %(after_seq)s
) AS numbered
WHERE account_seq <> seq_before + 1
ORDER BY account, account_seq
