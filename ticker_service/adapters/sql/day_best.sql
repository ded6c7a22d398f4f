-- The best of an account's day that was kept.
SELECT best_inr FROM risk_day
WHERE account = %(account)s AND trading_date = %(trading_date)s
