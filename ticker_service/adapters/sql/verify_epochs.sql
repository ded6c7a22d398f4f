-- Intents that were committed under an older epoch than one before them (I6).
-- A data that was tampered with need not hold a number; the replay says so.
SELECT account, account_seq, task_id, epoch, epoch_before FROM (
    SELECT
        account,
        account_seq,
        task_id,
        epoch,
        max(epoch) OVER (
            PARTITION BY account ORDER BY account_seq
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS epoch_before
    FROM (
        SELECT
            account,
            account_seq,
            task_id,
            CASE jsonb_typeof(data -> 'writer_epoch')
                WHEN 'number' THEN (data ->> 'writer_epoch')::numeric
            END AS epoch
        FROM order_event
        WHERE event = 'intent_recorded'
            AND (%(account)s::text IS NULL OR account = %(account)s)
            AND account_seq > %(after_seq)s
    ) AS intents
) AS ordered
WHERE epoch < epoch_before
ORDER BY account, account_seq
