-- Make rows of tasks what their events make of them; the others are not touched.
UPDATE order_task AS task SET
    kind = shadow.kind,
    account = shadow.account,
    principal = shadow.principal,
    request_id = shadow.request_id,
    client_order_id = shadow.client_order_id,
    body = shadow.body,
    body_sha256 = shadow.body_sha256,
    state = shadow.state,
    version = shadow.version,
    attempt = shadow.attempt,
    tag = shadow.tag,
    writer_epoch = shadow.writer_epoch,
    deadline = shadow.deadline,
    send_not_after = shadow.send_not_after,
    intent_at = shadow.intent_at,
    broker_order_id = shadow.broker_order_id,
    broker_status = shadow.broker_status,
    filled_quantity = shadow.filled_quantity,
    average_price = shadow.average_price,
    reason_code = shadow.reason_code,
    reason = shadow.reason,
    target_task_id = shadow.target_task_id,
    created_at = shadow.created_at,
    updated_at = shadow.updated_at
FROM shadow_task AS shadow
WHERE task.task_id = shadow.task_id AND ROW(task.*) IS DISTINCT FROM ROW(shadow.*)
