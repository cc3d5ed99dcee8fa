"""Options that several commands share. argparse, not click: the guard starts with every client session (see 0008)."""

import argparse
import os
from pathlib import Path

CONFIG_VARIABLE = "MCP_GUARD_CONFIG"


def parser(command: str, about: str) -> argparse.ArgumentParser:
    """A parser with `--config`."""
    made = argparse.ArgumentParser(prog=f"mcp-guard {command}", description=about)
    add_config(made)
    return made


def add_config(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--config",
        type=Path,
        default=Path(os.environ.get(CONFIG_VARIABLE, "mcp-guard.toml")),
        metavar="FILE",
        help=f"the configuration (default: ${CONFIG_VARIABLE}, else mcp-guard.toml here)",
    )


def add_json(made: argparse.ArgumentParser) -> None:
    made.add_argument("--json", action="store_true", help="print JSON")
