"""The MCP front end: tools over workspaces, for any number of clients of one supervisor."""
