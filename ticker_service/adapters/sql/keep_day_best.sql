-- Keep the best of an account's day; what was better already stays.
INSERT INTO risk_day (account, trading_date, best_inr)
VALUES (%(account)s, %(trading_date)s, %(best_inr)s)
ON CONFLICT (account, trading_date) DO UPDATE
SET best_inr = GREATEST(risk_day.best_inr, EXCLUDED.best_inr)
