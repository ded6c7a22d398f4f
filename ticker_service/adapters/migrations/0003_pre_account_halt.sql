-- Why an account sends no new orders, kept so that a restart does not lift it.

CREATE TABLE account_halt (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL CHECK (length(account) BETWEEN 1 AND 200),
    code text NOT NULL CHECK (length(code) BETWEEN 1 AND 64),
    step text NOT NULL CHECK (step IN ('halted', 'lifted')),
    reason text NOT NULL,
    since timestamptz NOT NULL,
    until timestamptz,
    at timestamptz NOT NULL,
    by_whom text NOT NULL
);
COMMENT ON TABLE account_halt IS
    'What halted an account and who lifted it; the newest row of a code says how it stands.';

CREATE INDEX account_halt_newest ON account_halt (account, code, number DESC);

CREATE TRIGGER kept_halt BEFORE UPDATE OR DELETE OR TRUNCATE ON account_halt
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
