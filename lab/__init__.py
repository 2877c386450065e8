"""Measures the system from outside: over its HTTP APIs, its counters, its databases and its processes.

Knows the kernel's contracts, never a service's code: what is compared must be what users get.
"""
