"""What a machine may take of its host: one protocol around the start of its process, and the ledger of memory.

Nothing outside this room asks which implementation it has.
"""
