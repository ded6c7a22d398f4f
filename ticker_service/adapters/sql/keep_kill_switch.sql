-- Keep a switch that was thrown; once it is there it stays as it is, released or not.
INSERT INTO kill_switch (switch_id, scope, level, why, by_whom, since)
VALUES (%(switch_id)s, %(scope)s, %(level)s, %(why)s, %(by_whom)s, %(since)s)
ON CONFLICT (switch_id) DO NOTHING
