"""Edits the configuration files of MCP clients (`known.CLIENTS`): puts their servers behind the guard, and back.

Only spans of the text are replaced, so that everything outside the wrapped entries stays as it was; see
docs/decisions/0035. The guard's own configuration is read as text and plain TOML only.
"""
