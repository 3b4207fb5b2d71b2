"""What runs inside a workspace: the wire protocol and the guest agent.

Standard library only: this package is copied into the guest layer as it is.
"""
