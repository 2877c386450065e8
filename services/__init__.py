"""The four services. They share the kernel and nothing else."""
