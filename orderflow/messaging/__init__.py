"""The path of one message through a service: delivered at least once, with one effect. Knows no provider and no HTTP.

The steps, in order:

1. `consumer` receives ten messages from the queue, keeps them invisible, and settles each by its verdict.
2. `watermark` records how far the queue has been read (`receivers`: by all processes of the service).
3. `processor` opens one transaction per batch, with each order once; `isolation` handles a batch that fails.
4. `inbox` knows which messages have had their effect.
5. `application` is what the service itself does with them (`services/<name>/handlers.py`).
6. `outbox` stores the messages that they cause, in the same transaction.
7. `acknowledger` deletes them from the queue, after the commit.
8. `publisher` passes stored messages to the `lane` of their destination (`circuit`, `pace`), which sends them. Those
   that find no room wait in the `backlog`.
9. `guard` counts failures; a message that fails five times is dead-lettered (`dead_letters`, `outbox_dead_letters`).

`tracing` and `handling` record it.
"""
