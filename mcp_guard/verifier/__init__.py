"""Verifies a ledger with public keys alone. This folder is stand-alone: it needs only Python and `cryptography`.

    python -m mcp_guard.verifier LEDGER|EXPORT|BUNDLE --key ledger.pub

docs/reference/verify.md says what each check proves. Verification stops at the first thing that cannot be proved.
"""

from pathlib import Path

from .approver_keys import read_approvers
from .checkpoints import Requirements
from .cli import FAILED, OK, UNUSABLE, add_options, main, render, terminal_width, verify
from .full import verify_full
from .notes import read_keys
from .range import verify_range
from .report import Report, UnusableInput, describe
from .signatures import check_signature
from .sources.sqlite import LedgerSource

__all__ = [
    "FAILED", "OK", "UNUSABLE", "LedgerSource", "Report", "Requirements", "UnusableInput", "add_options",
    "check_signature", "describe", "main", "read_keys", "render", "terminal_width", "verify", "verify_full",
    "verify_ledger", "verify_range",
]  # fmt: skip


def verify_ledger(path: Path, key: Path, approvers: Path | None = None) -> Report:
    """Verify a whole ledger file. Raises: UnusableInput if a file cannot be read."""
    trusted = read_approvers(approvers) if approvers else None
    return verify_full(LedgerSource(path), Requirements(read_keys(key), trusted))
