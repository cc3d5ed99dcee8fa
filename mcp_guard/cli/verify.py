"""`mcp-guard verify`: verify the ledger, an export or a bundle with public keys.

`mcp_guard/verifier` does the same alone.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from mcp_guard.cli.ledger_reader import ChosenLedger, find_ledger, make_ledger_parser
from mcp_guard.cli.output import print_hint, print_json, print_text
from mcp_guard.cli.verification_note import note_verification, remembered_checkpoint
from mcp_guard.config import load
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.visible_text import VisibleText
from mcp_guard.ledger.keys import PUBLISHED
from mcp_guard.ledger.verification_note import NOTE
from mcp_guard.verifier import FAILED, OK, UnusableInput, add_options, terminal_width, verify
from mcp_guard.verifier.progress import Progress
from mcp_guard.verifier.report import describe


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    ledger = ChosenLedger(options.input, options.input.parent) if options.input else find_ledger(options)
    try:
        if not ledger.engine.exists():
            raise UnusableInput(f"`{ledger.place}` does not exist; a guard creates its ledger when it first runs")
        if options.input and not options.key:
            raise UnusableInput("no key given; a key stored next to the input would prove nothing")
        is_configured = options.input is None and options.ledger is None
        if is_configured and not options.key:
            from mcp_guard.ledger.open import ledger_settings, publish_own_key

            publish_own_key(ledger_settings(load(options.config)))
        with Progress(quiet=options.json) as progress:
            report = verify(
                ledger.place if isinstance(ledger.place, Path) else ledger.engine.open_source(),
                options.key or [ledger.folder / PUBLISHED],
                options,
                progress.update,
                key_is_beside=not options.key,
                remembered=remembered_checkpoint(ledger.folder) if is_configured else (),
            )
    except UnusableInput as error:
        raise LedgerError(f"cannot verify: {error}", "mcp-guard verify [INPUT --key FILE]; see --help") from None
    if report.ok and report.scope == "ledger" and is_configured:
        note_verification(ledger.folder, report)
    if options.json:
        print_json(asdict(report), indent=2)
    else:
        print_text(VisibleText(describe(report, terminal_width())))
    if report.discontinued:
        note = ledger.folder / NOTE
        print_hint(f"find out who changed it, and restore the newest copy; if this one is right, remove `{note}`")
    return OK if report.ok else FAILED


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser(
        "verify",
        "Verify a ledger, export or bundle with public keys. Stops with exit code 1 at the first check that fails.",
    )
    parser.add_argument(
        "input", type=Path, nargs="?", metavar="LEDGER|EXPORT|BUNDLE", help="what to verify (default: the ledger)"
    )
    add_options(parser)
    return parser
