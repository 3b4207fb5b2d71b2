"""Disk layers and checkpoints on the host."""
