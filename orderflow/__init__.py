"""The kernel: what every orderflow process shares. It imports nothing of the services, the orchestrator or the CLI."""
