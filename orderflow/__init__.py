"""The kernel: what every orderflow process shares. It imports neither services nor orchestrator nor CLI."""
