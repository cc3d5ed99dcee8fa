"""`mcp-guard ledger export`."""

from mcp_guard.core.errors import LedgerError


def main(arguments: list[str]) -> int:
    raise LedgerError("`ledger export` is not built yet")
