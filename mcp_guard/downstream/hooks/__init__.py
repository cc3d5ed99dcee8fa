"""Coding agents in front of the guard: their hooks ask before a tool of their own runs, and report afterwards."""
