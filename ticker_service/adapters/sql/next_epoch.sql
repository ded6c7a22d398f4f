-- Begin a new epoch of an account's writer; waits for sends that still hold the old one.
INSERT INTO account_writer AS writer (account, epoch, acquired_at)
VALUES (%(account)s, 1, clock_timestamp())
ON CONFLICT (account) DO UPDATE SET epoch = writer.epoch + 1, acquired_at = clock_timestamp()
RETURNING epoch
