"""The load on orderflow: a generator in a process of its own, over HTTP."""
