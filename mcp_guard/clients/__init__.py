"""The MCP clients whose configuration files the guard can edit, and the editing. `known.CLIENTS` is the whole list.

Files are edited by splicing spans of their text, so that everything outside the wrapped entries stays as it was; see
docs/decisions/0035. Nothing here reads the guard's own configuration but as text and plain TOML.
"""
