"""The two ways a service runs: under gunicorn, or as a worker without a port. See `orderflow.serve`."""
