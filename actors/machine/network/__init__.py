"""How a guest is wired."""
