"""The HTTP transport. Only `mcp-guard serve` loads it."""
