"""What is deployed: the generator of the stack (`stack`), container images (`containers`) and policies (`aws`)."""
