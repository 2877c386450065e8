"""Measures the system from outside: over its HTTP APIs, its counters, its databases and its processes.

Knows the kernel's contracts, never a service's code, so that it measures what users get.
"""
