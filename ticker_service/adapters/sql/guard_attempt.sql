-- Put back what unguard_attempt.sql took away.
ALTER TABLE order_attempt ENABLE TRIGGER USER
