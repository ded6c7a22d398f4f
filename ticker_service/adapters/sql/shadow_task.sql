-- Where tasks are made anew; it goes with the session, whatever ends that.
CREATE TEMPORARY TABLE shadow_task (LIKE order_task INCLUDING CONSTRAINTS)
