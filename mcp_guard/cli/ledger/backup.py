"""`mcp-guard ledger backup`: copy the ledger while guards use it, and verify the copy."""

import argparse
from pathlib import Path

from mcp_guard.cli.options import add_json, make_parser
from mcp_guard.cli.output import print_hint, print_json, print_text
from mcp_guard.config import load
from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.backup import back_up
from mcp_guard.ledger.keys import PUBLISHED
from mcp_guard.ledger.open import ledger_settings
from mcp_guard.ledger.place import FILE
from mcp_guard.verifier import LedgerSource, Requirements, UnusableInput, read_keys, verify_full
from mcp_guard.verifier.cli import read_checkpoints
from mcp_guard.verifier.progress import Progress
from mcp_guard.verifier.report import Report, count


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    done = back_up(ledger_settings(load(options.config)), options.folder.resolve(), options.with_key)
    verify_backup(done.folder, done.folder / PUBLISHED, (), options.json)
    if options.json:
        print_json(
            {
                "folder": str(done.folder),
                "receipts": done.receipts,
                "checkpoint": done.checkpoint,
                "has_key": done.has_key,
            }
        )
        return 0
    print_text(f"backed up {count(done.receipts, 'receipt')} to {options.folder}, and verified the copy")
    if done.has_key:
        print_text("the ledger's private key is in it: whoever reads it can sign receipts. Store it like a password")
    else:
        print_hint(
            "the private key is not in it; keep a copy of it apart (once, and after each rotation), or --with-key"
        )
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "ledger backup", "Copy the ledger to a folder, while guards may be using it, and verify the copy."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--with-key", action="store_true", help="include the private key of the ledger")
    add_json(parser)
    return parser


def verify_backup(folder: Path, key: Path, against: "tuple[Path, ...]", quiet: bool) -> Report:
    """Verify the ledger of a backup. Raises: LedgerError."""
    if not (folder / FILE).is_file():
        raise LedgerError(f"no backup in `{folder}`: it has no `{FILE}`", "name a folder that `ledger backup` wrote")
    try:
        checkpoints = tuple(checkpoint for file in against for checkpoint in read_checkpoints(file))
    except UnusableInput as error:
        raise LedgerError(str(error), "name a checkpoint that you kept: --against CHECKPOINT") from None
    other = "if the checkpoint is of another ledger, name this one's with --against; if not, " if against else ""
    try:
        with Progress(quiet=quiet) as progress:
            requirements = Requirements(read_keys(key), against=checkpoints, progress=progress.update)
            report = verify_full(LedgerSource(folder / FILE), requirements)
    except UnusableInput as error:
        raise LedgerError(f"cannot verify the backup `{folder}`: {error}", f"{other}use another backup") from None
    if not report.ok:
        where = "" if report.failed_at is None else f"receipt {report.failed_at}: "
        hint = f"mcp-guard verify {folder / FILE} --key {key}; {other}use another backup"
        raise LedgerError(f"the backup `{folder}` does not verify: {where}{report.problem}", hint)
    return report
