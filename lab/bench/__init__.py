"""`orderflow bench`: orderflow against the bare loop, in pairs, several rounds. docs/benchmark.md says how and why."""
