"""`mcp-guard keys`: list the keys that sign the ledger, rotate one, replace a lost one, or make one."""

import argparse
from pathlib import Path

from mcp_guard.cli.options import Parser, add_config, add_json
from mcp_guard.cli.output import print_hint, print_json, print_lines, print_table, print_text
from mcp_guard.config import load
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.tlog import note
from mcp_guard.ledger import key_rotation
from mcp_guard.ledger.backup import refuse_while_guards_run
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.key_chain import receipted_keys
from mcp_guard.ledger.keys import PUBLISHED
from mcp_guard.ledger.open import ledger_settings
from mcp_guard.ledger.place import ledger_place
from mcp_guard.ledger.signers.file import FILE as KEY_FILE
from mcp_guard.ledger.signers.file import NEXT, create_key_file
from mcp_guard.settings import Settings
from mcp_guard.storage.engines import open_store
from mcp_guard.storage.rows import GuardKey


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    if options.verb == "create":
        return create(options)
    settings = load(options.config)
    verbs = {"list": show, "rotate": rotate, "replace": replace}
    return verbs[options.verb](settings, options)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mcp-guard keys", description="Manage the keys that sign the ledger.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="list all keys, oldest first, and the receipts each has signed")
    rotating = verbs.add_parser("rotate", help="switch to a new key that the old key signs")
    replacing = verbs.add_parser("replace", help="switch to a new key without the old key's signature")
    replacing.add_argument(
        "--lost", action="store_true", required=True, help="confirm that the old private key is lost"
    )
    rotating.add_argument("--why", required=True, metavar="TEXT", help="the reason; recorded in the ledger")
    replacing.add_argument("--why", default="", metavar="TEXT", help="the reason; recorded in the ledger")
    creating = verbs.add_parser("create", help="make the first or the next key of a ledger that several machines share")
    creating.add_argument("file", type=Path, metavar="FILE", help="where to write the private key; a new file")
    creating.add_argument("--origin", metavar="NAME", help="the ledger's name (default: guard.origin)")
    for verb in (listing, rotating, replacing, creating):
        add_config(verb)
        add_json(verb)
    return parser


def create(options: argparse.Namespace) -> int:
    origin = options.origin or load(options.config).origin
    try:
        verifier = create_key_file(options.file, origin)
    except OSError as error:
        hint = "name a new file in a folder that is there"
        raise LedgerError(f"cannot write `{options.file}`: {error.strerror}", hint) from None
    if options.json:
        print_json({"file": str(options.file), "verifier": verifier})
    else:
        print_lines([f"wrote a new private key for {origin} to `{options.file}`; its public key:", verifier])
        name, then = (NEXT, "; then: mcp-guard keys rotate") if options.file.name == NEXT else (KEY_FILE, "")
        print_hint(f"put it into every gateway's state folder as {name} (mode 0600), and keep a copy elsewhere{then}")
    return 0


def show(settings: Settings, options: argparse.Namespace) -> int:
    store = open_store(ledger_place(settings), create=False)
    with store.reading():
        keys = receipted_keys(store)
        size = store.head().size
    until = [*(key.since - 1 for key in keys[1:]), *([None] if keys else [])]
    if options.json:
        rows = zip(keys, until, strict=True)
        print_json([{"verifier": k.verifier, "since": k.since, "until": end} for k, end in rows], indent=2)
        return 0
    print_table(("key", "receipts", "state"), [row(key, end, size) for key, end in zip(keys, until, strict=True)])
    return 0


def row(key: GuardKey, until: int | None, size: int) -> tuple[str, str, str]:
    last = size - 1 if until is None else until
    signed = f"{key.since} to {last}" if last >= key.since else "none"
    return note.short_verifier(key.verifier), signed, "in force" if until is None else "earlier"


def rotate(settings: Settings, options: argparse.Namespace) -> int:
    old, new = key_rotation.rotate(ledger_settings(settings), CLOCK, options.why)
    message = f"key {note.short_verifier(new)} is in force; {note.short_verifier(old)} signed it and is retired"
    say(settings, options, (old, new), message)
    if not options.json:
        print_text("make a new backup: without a copy of the retired key, earlier ones need --lost-key to be restored")
    return 0


def replace(settings: Settings, options: argparse.Namespace) -> int:
    refuse_while_guards_run(ledger_place(settings), settings.state_dir)
    old, new = key_rotation.replace(ledger_settings(settings), CLOCK, options.why)
    unsigned = f"key {note.short_verifier(new)} replaces {note.short_verifier(old)}, which did not sign the new key"
    message = f"{unsigned}; tell everyone who verifies the ledger"
    return say(settings, options, (old, new), message)


def say(settings: Settings, options: argparse.Namespace, keys: tuple[str, str], text: str) -> int:
    if options.json:
        print_json({"old": keys[0], "new": keys[1]})
    else:
        print_lines([text, f"give this line to those who verify; it is in {settings.state_dir / PUBLISHED}:", keys[1]])
    return 0
