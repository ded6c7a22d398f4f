-- The best of an account's day, from which a fall is counted, outlives the process that saw it.

CREATE TABLE risk_day (
    account text NOT NULL CHECK (length(account) BETWEEN 1 AND 200),
    trading_date date NOT NULL,
    best_inr numeric NOT NULL CHECK (best_inr >= 0 AND best_inr < 'Infinity'),
    PRIMARY KEY (account, trading_date)
);
COMMENT ON TABLE risk_day IS
    'The best result of an account on a trading day that was seen while its losses were limited.';

CREATE FUNCTION only_better() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.account, NEW.trading_date) IS DISTINCT FROM (OLD.account, OLD.trading_date)
        OR NEW.best_inr < OLD.best_inr
    THEN
        RAISE EXCEPTION 'Invariant: the best of a day never falls, account=% trading_date=%',
            OLD.account, OLD.trading_date USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END;
$$;

CREATE TRIGGER rising_best BEFORE UPDATE ON risk_day
    FOR EACH ROW EXECUTE FUNCTION only_better();
CREATE TRIGGER kept_day BEFORE DELETE OR TRUNCATE ON risk_day
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
