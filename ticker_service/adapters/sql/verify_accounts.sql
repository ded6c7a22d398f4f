-- Each account's log in one line: how many events, its newest number, what its counter, its writer
-- and its sinks say.
WITH log AS (
    SELECT account, count(*) AS events, max(account_seq) AS newest_seq
    FROM order_event
    WHERE %(account)s::text IS NULL OR account = %(account)s
    GROUP BY account
),
cursors AS (
    SELECT account, max(account_seq) AS delivered_seq
    FROM event_delivery
    WHERE %(account)s::text IS NULL OR account = %(account)s
    GROUP BY account
),
writers AS (
    SELECT account, epoch FROM account_writer
    WHERE %(account)s::text IS NULL OR account = %(account)s
),
sequences AS (
    SELECT account, last_seq FROM account_sequence
    WHERE %(account)s::text IS NULL OR account = %(account)s
)
SELECT
    account,
    COALESCE(log.events, 0) AS events,
    COALESCE(log.newest_seq, 0) AS newest_seq,
    COALESCE(sequences.last_seq, 0) AS last_seq,
    COALESCE(cursors.delivered_seq, 0) AS delivered_seq,
    COALESCE(writers.epoch, 0) AS epoch
FROM log
FULL JOIN sequences USING (account)
FULL JOIN cursors USING (account)
FULL JOIN writers USING (account)
ORDER BY account
