"""The host's end of a guest agent's channel: what is asked of a guest."""
