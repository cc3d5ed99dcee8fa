"""`python -m mcp_guard.cli` is `mcp-guard`."""

import sys

from mcp_guard.cli import main

sys.exit(main())
