-- Remember up to which number a sink has had an account's events; the number never falls.
INSERT INTO event_delivery AS delivery (account, sink, account_seq)
VALUES (%(account)s, %(sink)s, %(account_seq)s)
ON CONFLICT (account, sink) DO UPDATE SET account_seq = excluded.account_seq
WHERE delivery.account_seq < excluded.account_seq
