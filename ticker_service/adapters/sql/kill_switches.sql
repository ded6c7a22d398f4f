-- Every switch that stands, and the newest hundred that were released.
SELECT * FROM (
    SELECT * FROM kill_switch WHERE released IS NULL
    UNION ALL
    (SELECT * FROM kill_switch WHERE released IS NOT NULL ORDER BY released DESC LIMIT 100)
) AS switches
ORDER BY since, switch_id
