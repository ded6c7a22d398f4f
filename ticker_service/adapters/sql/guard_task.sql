-- Put back what unguard_task.sql took away.
ALTER TABLE order_task ENABLE TRIGGER USER
