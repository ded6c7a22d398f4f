-- Make rows of attempts what their events make of them; the others are not touched.
UPDATE order_attempt AS attempt SET
    account = shadow.account,
    tag = shadow.tag,
    writer_epoch = shadow.writer_epoch,
    body_sha256 = shadow.body_sha256,
    intent_at = shadow.intent_at,
    send_not_after = shadow.send_not_after,
    outcome = shadow.outcome,
    http_status = shadow.http_status,
    finished_at = shadow.finished_at
FROM shadow_attempt AS shadow
WHERE attempt.task_id = shadow.task_id AND attempt.attempt = shadow.attempt
    AND ROW(attempt.*) IS DISTINCT FROM ROW(shadow.*)
