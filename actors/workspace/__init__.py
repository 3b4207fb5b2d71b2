"""The workspace actor and what it does with its machine, disk, snapshots and ports."""
