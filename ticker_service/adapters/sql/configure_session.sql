-- Set what our promises rest on, whatever defaults the role or the database has, and look at what
-- only the server's administrator can set.
SELECT
    set_config('synchronous_commit', %(synchronous_commit)s, false),
    set_config('statement_timeout', %(statement_timeout)s, false),
    set_config('lock_timeout', %(lock_timeout)s, false),
    set_config('idle_in_transaction_session_timeout', %(idle_in_transaction_timeout)s, false),
    -- The session that holds the account locks is idle by nature.
    set_config('idle_session_timeout', '0', false),
    set_config('timezone', 'UTC', false),
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes
