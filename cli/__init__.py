"""The `orderflow` command."""
