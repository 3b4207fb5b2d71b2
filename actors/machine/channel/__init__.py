"""The byte stream to a guest agent: one protocol, its implementations, and the choice of one by its name.

Nothing outside this room asks which implementation it has; it asks that for what it can do.
"""
