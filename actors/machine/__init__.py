"""The resources of a machine: QEMU, its memory, disks and channel.  They know nothing of actors."""
