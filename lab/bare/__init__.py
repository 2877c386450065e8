"""The bare loop: the same messages over the same topology, by plain boto3 processes that guarantee nothing.

It has no database, no HTTP, no inbox, no outbox and no validation. It shows what the broker alone allows on this
machine, and is therefore what orderflow is compared with.
"""
