"""The services over HTTP as a library: calls, an order's timeline, checks. Prints nothing."""
