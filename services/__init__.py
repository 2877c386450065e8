"""The four services. They share the kernel (`orderflow/`) and nothing else."""
