"""The orchestrator: the one place that directs an order through its steps."""
