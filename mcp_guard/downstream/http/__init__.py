"""The HTTP front. Only `mcp-guard serve` loads it."""
