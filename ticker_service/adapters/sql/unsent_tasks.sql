-- An account's instructions that have not been sent, in the order of their admission.
-- That is by the number of their first event: times would let the last change of an order overtake
-- the one before it when the wall clock is set back. Their number is limited (I15), so each page
-- may look at all of them.
-- The condition is that of the partial index, word for word, so that a prepared plan uses it, too;
-- the number is a subquery, so that no plan begins with the events of all history.
WITH unsent AS MATERIALIZED (
    SELECT
        task.*,
        (
            SELECT event.account_seq FROM order_event AS event
            WHERE event.task_id = task.task_id AND event.version = 1
        ) AS admitted_seq
    FROM order_task AS task
    WHERE task.account = %(account)s AND task.state IN ('RECEIVED', 'READY')
)
SELECT * FROM unsent
WHERE admitted_seq > %(after_seq)s
ORDER BY admitted_seq
LIMIT %(limit)s
