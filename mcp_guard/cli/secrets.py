"""`mcp-guard secrets`: where the configuration has its secrets, and the entries among them in the keyring."""

import argparse
import json
import os
import sys
from collections.abc import Iterator

from mcp_guard.cli.options import Parser, add_config, add_json
from mcp_guard.cli.output import print_json, print_result, print_table, print_text
from mcp_guard.cli.prompts import ask_secret
from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError
from mcp_guard.secrets import MAX_BYTES, read_secret, remove_from_keyring, split_entry, store_in_keyring
from mcp_guard.settings import SecretReference, Settings


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


def places(settings: Settings) -> Iterator[tuple[str, SecretReference]]:
    """Every secret of the configuration, with its configuration key."""
    for name, server in settings.upstreams.items():
        kind = "headers" if server.url else "env"
        yield from ((f"upstreams.{name}.{kind}.{key}", place) for key, place in server.secrets.items())
        if server.bearer:
            yield f"upstreams.{name}.bearer", server.bearer
        if server.oauth and server.oauth.client_secret:
            yield f"upstreams.{name}.oauth.client_secret", server.oauth.client_secret
    for section, named in (("notifiers", settings.notifiers), ("witnesses", settings.witnesses)):
        for name, section_settings in named.items():
            references = [
                (key, value) for key, value in section_settings.options.items() if isinstance(value, SecretReference)
            ]
            yield from ((f"{section}.{name}.{key}", place) for key, place in references)
    for key, secret in (("database", settings.database), ("shared_secret", settings.shared_secret)):
        if isinstance(secret, SecretReference):
            yield f"ledger.{key}", secret


def show(options: argparse.Namespace) -> int:
    """Commands are not run, because they may ask the user for something."""
    settings = load(options.config)
    rows = [(key, place, state(place, settings)) for key, place in places(settings)]
    if options.json:
        print_json([{"key": k, "source": p.source, "place": p.name, "state": s} for k, p, s in rows], indent=2)
    elif not rows:
        print_text("no secret in the configuration", file=sys.stderr)
    else:
        print_table(("key", "source", "place", "state"), [(k, p.source, p.name, s) for k, p, s in rows])
    return 0 if all(state in ("there", "not run") for _, _, state in rows) else 1


def state(place: SecretReference, settings: Settings) -> str:
    if place.source == "command":
        return "not run"
    try:
        read_secret(place, settings.path.parent, os.environ)
    except ConfigError as error:
        return error.message
    return "there"


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
