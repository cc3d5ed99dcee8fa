"""How the guard reaches the MCP servers behind it."""
