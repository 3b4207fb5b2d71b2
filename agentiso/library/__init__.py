"""The library: a system of workspaces, and what can be asked of each."""
