"""`mcp-guard ledger migrate`: bring a ledger of an older format to the present one, and verify it."""

import argparse
from dataclasses import asdict
from pathlib import Path

from mcp_guard.cli.ledger_reader import make_ledger_parser
from mcp_guard.cli.options import account
from mcp_guard.cli.output import print_hint, print_json, print_text
from mcp_guard.config import load
from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.keys import PUBLISHED
from mcp_guard.ledger.migration import Migrated, migrate
from mcp_guard.ledger.open import ledger_settings
from mcp_guard.storage.place import Place
from mcp_guard.verifier import LedgerSource, Requirements, read_keys, verify_full
from mcp_guard.verifier.notes import parse_checkpoint
from mcp_guard.verifier.progress import Progress
from mcp_guard.verifier.report import count


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = ledger_settings(load(options.config))
    ledger = options.ledger.resolve() if options.ledger else settings.place
    with Progress("requests", quiet=options.json) as progress:
        done = migrate(settings, CLOCK, ledger, f"operator {account()}", progress.update, progress.show)
    if done is not None and isinstance(ledger, Path):
        verify(ledger, settings.state_dir, done, options.json)
    if options.json:
        print_json({"ledger": str(ledger), "migrated": asdict(done) | {"backup": str(done.backup)} if done else None})
    elif done is None:
        print_text(f"`{ledger}` has the format of this version: there is nothing to do")
    else:
        say(ledger, done)
    return 0


def build_parser() -> argparse.ArgumentParser:
    return make_ledger_parser(
        "ledger migrate",
        "Bring a ledger of an older format to the one of this version, after making a backup beside it, and verify it. "
        "Stop every guard and inbox first. No receipt is changed. If it is interrupted, run it again.",
    )


def verify(ledger: Path, state_dir: Path, done: Migrated, quiet: bool) -> None:
    """Check that the migrated ledger continues the one that it was. Raises: LedgerError."""
    published = ledger.with_name(PUBLISHED)
    keys = read_keys(published if published.exists() else state_dir / PUBLISHED)
    with Progress(quiet=quiet) as progress:
        requirements = Requirements(keys, against=(parse_checkpoint(done.checkpoint),), progress=progress.update)
        report = verify_full(LedgerSource(ledger), requirements)
    if not report.ok:
        where = "" if report.failed_at is None else f"receipt {report.failed_at}: "
        raise LedgerError(
            f"the ledger was migrated, and does not verify: {where}{report.problem}",
            f"verify the backup: mcp-guard verify {done.backup} --key {published}",
        )


def say(ledger: Place, done: Migrated) -> None:
    print_text(
        f"migrated `{ledger}` from format {done.before} to {done.after}, and verified it: it continues the"
        f" {count(done.receipts, 'receipt')} that it had"
    )
    print_text(f"the ledger as it was is in {done.backup}")
    if done.ended:
        are = "request, approval or grant was" if done.ended == 1 else "requests, approvals or grants were"
        print_text(f"{done.ended} {are} open, and ended with it: agents must ask again")
    if done.revoked:
        print_text(
            f"revoked all credentials of {', '.join(done.revoked)}, because a token of another issuer was revoked"
        )
    print_hint("start the guards again with this version; the backup can go once you keep a newer one elsewhere")
