"""The byte stream to a guest agent."""
