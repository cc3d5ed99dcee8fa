"""`mcp-guard ledger prove`."""

from mcp_guard.core.errors import LedgerError


def main(arguments: list[str]) -> int:
    raise LedgerError("`ledger prove` is not built yet")
