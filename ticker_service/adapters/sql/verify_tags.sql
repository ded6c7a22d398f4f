-- Tags that more than one attempt of an account carries (I4).
SELECT account, tag, count(*) AS attempts FROM order_attempt
WHERE %(account)s::text IS NULL OR account = %(account)s
GROUP BY account, tag
HAVING count(*) > 1
ORDER BY account, tag
