-- Note that an account was halted, or that a halt of it was lifted.
INSERT INTO account_halt (account, code, step, reason, since, until, at, by_whom)
VALUES (
    %(account)s, %(code)s, %(step)s, %(reason)s, %(since)s, %(until)s, %(at)s, %(by_whom)s
)
