-- Up to which number a sink has had an account's events.
SELECT account_seq FROM event_delivery WHERE account = %(account)s AND sink = %(sink)s
