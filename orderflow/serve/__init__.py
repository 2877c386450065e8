"""A process of a service, from its start to SIGTERM: under gunicorn, or as a worker without a port.

`python -m orderflow.serve order` runs one.
"""

from orderflow.serve.command import listen, main

__all__ = ["listen", "main"]
