"""`mcp-guard ledger restore`: verify a backup and put its ledger in place, also on a new machine."""

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mcp_guard.cli.ledger.backup import verify_backup
from mcp_guard.cli.ledger.copy import verify_copy
from mcp_guard.cli.options import account, add_json, make_parser
from mcp_guard.cli.output import print_json, print_lines, print_text, steps
from mcp_guard.cli.verification_note import note_verification
from mcp_guard.config import load
from mcp_guard.events.sender import set_back
from mcp_guard.ledger.backup import Restored, restore
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.keys import PUBLISHED
from mcp_guard.ledger.open import ledger_settings
from mcp_guard.ledger.place import FILE, ledger_place
from mcp_guard.settings import Settings
from mcp_guard.storage.place import Database
from mcp_guard.verifier.report import count


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings, backup = load(options.config), options.folder.resolve()
    report = verify_backup(backup, options.key or backup / PUBLISHED, tuple(options.against), options.json)
    done = restore(
        ledger_settings(settings),
        CLOCK,
        backup,
        agents=settings.agents,
        by=f"operator {account()}",
        may_replace=options.replace,
        key_is_lost=options.lost_key,
        verify=partial(verify_copy, quiet=options.json),
    )
    note_verification(settings.state_dir, report)
    cursors = set_back(settings.state_dir, settings.origin, done.receipts - 1)
    if options.json:
        replaced = str(done.replaced) if done.replaced else None
        print_json(asdict(done) | {"replaced": replaced, "cursors_set_back": cursors})
    else:
        say(settings, options, done, cursors)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("ledger restore", "Verify a backup and restore its ledger. Stop every guard and inbox first.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that `ledger backup` wrote")
    parser.add_argument("--replace", action="store_true", help="move a ledger that is there to a folder beside it")
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="the verifier keys to trust (default: those in the backup)"
    )
    parser.add_argument(
        "--against", type=Path, action="append", default=[], metavar="CHECKPOINT",
        help="a checkpoint that you kept elsewhere and that the backup must contain; repeatable",
    )  # fmt: skip
    parser.add_argument("--lost-key", action="store_true", help="the private key is lost: create a new one")
    add_json(parser)
    return parser


def say(settings: Settings, options: argparse.Namespace, done: Restored, cursors: int) -> None:
    place = ledger_place(settings)
    where = settings.state_dir if place == settings.state_dir / FILE else place
    print_text(f"restored {count(done.receipts, 'receipt')} of {settings.origin} to {where}")
    if options.key is None and not options.against:
        print_text("verified with the keys in the backup: it is undamaged, but who made it is not proved (--key)")
    if done.replaced is not None:
        more = "" if done.replaced_receipts is None else f" ({count(done.replaced_receipts, 'receipt')})"
        what = "key" if isinstance(place, Database) else "ledger"
        print_text(f"the {what} that was there{more} is in {done.replaced}")
    print_text(
        f"withdrew {count(done.closed, 'open approval')} and all credentials of {', '.join(done.agents) or 'no agent'}:"
        " the backup cannot tell which were used or revoked since"
    )
    if cursors:
        print_text(
            f"set back {count(cursors, 'position')} of `mcp-guard ledger events` to receipt {done.receipts - 1},"
            " the last one of the backup"
        )
    if options.lost_key:
        print_text(f"the new key is {done.verifier}: give it to those who verify")
    print_text("repeat what you changed after the backup, and then start the guard:")
    print_lines(
        steps(
            [
                ("mcp-guard agents list", "agents added or disabled since"),
                ("mcp-guard approvers list", "keys enrolled or removed since"),
                ("mcp-guard tools list", "definitions accepted or refused since"),
                (f"mcp-guard ledger events --cursor FILE --after {done.receipts - 1}", "once, for a cursor elsewhere"),
                ("mcp-guard doctor --upstreams", "diagnose problems, also of the servers"),
            ]
        )
    )
