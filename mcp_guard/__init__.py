"""mcp-guard: an MCP proxy that treats each write an AI agent makes as the unit of authorization."""

__version__ = "0.1.0"
