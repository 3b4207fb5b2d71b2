"""What clients and supervisor say to each other."""
