"""What runs a guest's instructions: one protocol, its implementations, and which of them really works here.

Nothing outside this room asks which implementation it has; it asks that for what it can do.
"""
