"""The path of one message through a service: delivered at least once, with one effect. Knows no provider and no HTTP.

The way of one message of inventory, from its queue to the broker again; each function is called after the one above it
(`tests/component/test_message_path.py`), and each file can be read after the one above it:

1. `orderflow/messaging/consumer.py`, `step`: takes up to ten messages off the queue and decodes them; a heartbeat
    keeps them invisible to others;
2. `orderflow/messaging/processor.py`, `process`: opens one transaction for the batch, with one message of each order
    in it;
3. `services/inventory/reactions.py`, `react`: says which command of inventory's own a message is: `OrderPlaced` is
    `ReserveStock` here;
4. `orderflow/messaging/inbox.py`, `known`: says which messages have had their effect already;
5. `services/inventory/handlers.py`, `handle`: the business effect of the batch, unaware of the workflow;
6. `services/inventory/domain.py`, `decide`: the rule: what can be reserved of what there is; standard library only;
7. `services/inventory/models.py`, `add`: the rows of that decision, in the same transaction;
8. `orderflow/messaging/outbox.py`, `stage`: the replies, by the routing table, in the same transaction; then it
    commits;
9. `orderflow/messaging/publisher.py`, `hand_over`: after the commit: each reply to the lane of its destination;
10. `orderflow/messaging/acknowledger.py`, `acknowledge`: deletes the messages from the queue; what crashed before
    this is delivered again;
11. `orderflow/messaging/lane.py`, `step`: sends a batch in the thread of this destination; what fails is retried by
    the circuit breaker;
12. `orderflow/broker/aws/broker.py`, `send`: SNS, EventBridge, SQS or Step Functions.

Beside the way: `watermark` and `receivers` know how far the queue has been seen, by this process and by all of the
service; `isolation` finds the message of a batch that fails, `guard` turns its error into a verdict, and what has
failed five times is dead-lettered (`dead_letters`, `outbox_dead_letters`). A lane has a `circuit` breaker, a `pace`
and a `backlog` for what finds no room, and sends by `sending`; `late` starts the clock of an answer when its question
is sent. `tracing` and `handling` tell of all this; `application` is what a service gives to the kernel.
"""
