"""JSON-RPC and MCP as values: framing, methods, and the messages of both protocol versions. Opens no socket."""
