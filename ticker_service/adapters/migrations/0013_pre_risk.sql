-- Which risk limits were in force, and what they denied.

CREATE TABLE risk_limits (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version text NOT NULL CHECK (length(version) BETWEEN 1 AND 64),
    said jsonb NOT NULL,
    at timestamptz NOT NULL
);
COMMENT ON TABLE risk_limits IS
    'Each change of the risk limits, with all that was set from then on.';

CREATE TRIGGER kept_limits BEFORE UPDATE OR DELETE OR TRUNCATE ON risk_limits
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE risk_denial (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL CHECK (length(account) BETWEEN 1 AND 200),
    at timestamptz NOT NULL,
    told jsonb NOT NULL
);
COMMENT ON TABLE risk_denial IS
    'What the risk gate denied and by which numbers; only the newest of each account are kept.';

CREATE INDEX risk_denial_newest ON risk_denial (account, number DESC);
