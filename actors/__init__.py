"""What runs on the host: the actor runtime, the registry, the workspaces and the machines they own."""
