-- An account's events with a greater number, in order.
SELECT * FROM order_event
WHERE account = %(account)s AND account_seq > %(account_seq)s
ORDER BY account_seq
LIMIT %(limit)s
