-- Tags that more than one intent of an account carries (I4).
SELECT account, data ->> 'tag' AS tag, count(*) AS intents FROM order_event
WHERE event = 'intent_recorded' AND (%(account)s::text IS NULL OR account = %(account)s)
    AND account_seq > %(after_seq)s
GROUP BY account, data ->> 'tag'
HAVING count(*) > 1
ORDER BY account, tag
