"""The orchestrator: it directs orders through their steps, and watches executions of the state machine."""
