"""What is deployed: the stack's generator (`stack`), images (`containers`), policies (`aws`)."""
