-- Keep one transition of an account's breaker, at the database's own time.
INSERT INTO account_breaker (account, breaker, before, after, failures)
VALUES (%(account)s, %(breaker)s, %(before)s, %(after)s, %(failures)s)
