-- Nothing asks for tasks by any state any more: open work has three questions, each with its
-- partial index, and history is asked for by caller or by number. The index was written at every
-- step of every order.
DROP INDEX order_task_account;
