"""JSON-RPC and MCP as values: framing, peers, sessions. Opens no socket."""
