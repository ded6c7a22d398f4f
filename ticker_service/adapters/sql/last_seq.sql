-- The number of an account's newest event.
SELECT last_seq FROM account_sequence WHERE account = %(account)s
