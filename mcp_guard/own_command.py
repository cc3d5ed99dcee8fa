"""The command by which a guard starts another command of its own."""

import sys

OWN_COMMAND = (sys.executable, "-P", "-m", "mcp_guard.cli")
"""INVARIANT: `-P` (python(1)): no module is taken from the folder where the guard was started. Clients start it in the
folder of a project, where an agent may write."""
