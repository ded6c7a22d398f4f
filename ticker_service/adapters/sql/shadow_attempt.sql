-- Where attempts are made anew; it goes with the session, whatever ends that.
CREATE TEMPORARY TABLE shadow_attempt (LIKE order_attempt INCLUDING CONSTRAINTS)
