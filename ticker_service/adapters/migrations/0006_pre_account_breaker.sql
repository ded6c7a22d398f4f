-- How an account's circuit breakers stood, kept so that a restart does not forget an open one.
-- The time is the database's: a breaker's age does not depend on who asks.

CREATE TABLE account_breaker (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL CHECK (length(account) BETWEEN 1 AND 200),
    breaker text NOT NULL CHECK (length(breaker) BETWEEN 1 AND 64),
    before text NOT NULL,
    after text NOT NULL,
    failures integer NOT NULL CHECK (failures >= 0),
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE account_breaker IS
    'Each transition of a breaker; the newest row of one says how it stands.';

CREATE INDEX account_breaker_newest ON account_breaker (account, breaker, number DESC);

CREATE TRIGGER kept_breaker BEFORE UPDATE OR DELETE OR TRUNCATE ON account_breaker
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
