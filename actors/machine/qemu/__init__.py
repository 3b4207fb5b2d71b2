"""QEMU: its arguments, its process, its control protocol."""
