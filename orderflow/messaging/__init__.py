"""One message's way through a service, at least once and with one effect. Knows no provider and no HTTP.

In the order that a message takes it:

1. `consumer` takes ten off the queue, keeps them invisible, and settles each by its verdict;
2. `watermark` notes how far the queue has been seen (`receivers`: by all processes of the service);
3. `processor` opens one transaction for the batch, each order once, with the help of `isolation` where one fails;
4. `inbox` says which messages have had their effect;
5. `application` is what the service itself does with them (`services/<name>/handlers.py`);
6. `outbox` stores what they caused, in the same transaction;
7. `acknowledger` deletes them from the queue, after the commit;
8. `publisher` hands what was stored to the `lane` of its destination (`circuit`, `pace`), which sends it;
   what finds no room waits in the `backlog`;
9. `guard` counts failures, and what fails five times is a dead letter (`dead_letters`, `outbox_dead_letters`).

`tracing` and `handling` tell of it.
"""
