"""`mcp-guard secrets`: where the configuration has its secrets, and the entries among them in the keyring."""

import argparse
import json
import sys

from mcp_guard.cli.options import Parser, add_config, add_json
from mcp_guard.cli.output import print_json, print_result, print_table, print_text
from mcp_guard.cli.prompts import ask_secret
from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError
from mcp_guard.diagnostics.configured_secrets import inspect_secrets
from mcp_guard.diagnostics.snapshot import SecretState
from mcp_guard.secrets import MAX_BYTES, remove_from_keyring, split_entry, store_in_keyring


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    verbs = {"list": show, "set": put, "remove": remove}
    return verbs[options.verb](options)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mcp-guard secrets",
        description="List configured secrets, never their values, and manage those in the keyring.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="list configured secrets and whether each is available")
    add_config(listing)
    setting = verbs.add_parser("set", help="store a secret in the keyring; asks for it, or reads standard input")
    removing = verbs.add_parser("remove", help="remove a secret from the keyring")
    for verb in (setting, removing):
        verb.add_argument("entry", metavar="SERVICE/NAME")
    for verb in (listing, setting, removing):
        add_json(verb)
    return parser


def show(options: argparse.Namespace) -> int:
    states = inspect_secrets(load(options.config))
    places = [(state.secret.key, state.secret.reference) for state in states]
    rows = [(key, place.source, place.name, told(state)) for (key, place), state in zip(places, states, strict=True)]
    if options.json:
        print_json([{"key": k, "source": s, "place": p, "state": t} for k, s, p, t in rows], indent=2)
    elif not rows:
        print_text("the configuration refers to no secret", file=sys.stderr)
    else:
        print_table(("key", "source", "place", "state"), rows)
    return 1 if any(state.failure for state in states) else 0


def told(state: SecretState) -> str:
    return state.failure or ("there" if state.is_read else "not run")


def put(options: argparse.Namespace) -> int:
    entry(options.entry)
    asked = sys.stdin.isatty()
    value = ask_secret("secret (not shown): ") if asked else sys.stdin.read(MAX_BYTES + 1)
    value = value.strip()
    if not value or len(value) > MAX_BYTES:
        raise ConfigError(
            f"the secret is {'too long' if value else 'empty'}", "type the secret, or pass it on standard input"
        )
    store_in_keyring(options.entry, value)
    print_result(
        options.json, {"entry": options.entry}, f"stored; refer to it as: {{ keyring = {json.dumps(options.entry)} }}"
    )
    return 0


def remove(options: argparse.Namespace) -> int:
    entry(options.entry)
    remove_from_keyring(options.entry)
    print_result(options.json, {"removed": options.entry}, f"removed: {options.entry}")
    return 0


def entry(text: str) -> None:
    """Raises: ConfigError."""
    service, name = split_entry(text)
    if not service or not name:
        raise ConfigError(f"`{text}` is not a keyring entry", "write SERVICE/NAME, such as mcp-guard/crm-token")
