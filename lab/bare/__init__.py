"""The bare loop: the same messages over the same topology, by plain boto3 processes that guarantee nothing.

No database, no HTTP, no inbox, no outbox, no validation: what the broker alone allows on this machine, and so what
orderflow is compared with.
"""
