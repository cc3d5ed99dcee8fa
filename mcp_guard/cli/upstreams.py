"""`mcp-guard upstreams`: sign in to upstreams that require a user (OAuth), and out again."""

import argparse
import asyncio
import json
import os
import sys

from mcp_guard.app import listed_tools
from mcp_guard.cli.options import Parser, add_config, add_json
from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError, UpstreamError
from mcp_guard.core.model import Tool
from mcp_guard.ports import Pins
from mcp_guard.settings import OAuthSettings, Settings
from mcp_guard.upstream.oauth.authorization_code import sign_in
from mcp_guard.upstream.oauth.discovery import NoToken
from mcp_guard.upstream.oauth.token_storage import TokenStorage
from mcp_guard.upstream.secrets import read_secret
from mcp_guard.verifier.progress import Progress


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    said, keeping = find_sign_in(settings, options.name)
    try:
        if options.verb == "logout":
            return asyncio.run(logout(options, keeping))
        return asyncio.run(login(settings, options, said, keeping))
    except NoToken as why:
        raise UpstreamError(f"upstream `{options.name}`: {why}", "docs/howto/secrets.md") from None


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mcp-guard upstreams", description="Sign in to upstreams that require a user, or sign out.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    signing_in = verbs.add_parser("login", help="sign in with the browser and store the tokens for the guard")
    signing_in.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")
    signing_out = verbs.add_parser(
        "logout", help="delete the stored tokens; the upstream is not told, so they expire on their own"
    )
    for verb in (signing_in, signing_out):
        verb.add_argument("name", metavar="UPSTREAM", help="a name from [upstreams] in the configuration")
        add_config(verb)
        add_json(verb)
    return parser


def find_sign_in(settings: Settings, name: str) -> tuple[OAuthSettings, TokenStorage]:
    """Raises: ConfigError."""
    server = settings.upstreams.get(name)
    if server is None:
        known = ", ".join(f"`{each}`" for each in settings.upstreams)
        raise ConfigError(f"no upstream `{name}` in [upstreams]; configured: {known or 'none'}", "name one of them")
    if server.oauth is None or not server.oauth.is_interactive:
        hint = f'[upstreams.{name}.oauth] grant = "authorization_code"'
        raise ConfigError(f"upstream `{name}` does not use a sign-in by a user", hint)
    return server.oauth, TokenStorage(settings.state_dir / "sign-ins", name, server.oauth.in_keyring)


async def login(settings: Settings, options: argparse.Namespace, said: OAuthSettings, keeping: TokenStorage) -> int:
    def show(address: str) -> None:
        print(f"sign in here: {address}", file=sys.stderr, flush=True)
        if not options.no_browser:
            import webbrowser

            webbrowser.open(address)

    secret = read_secret(said.client_secret, settings.path.parent, os.environ) if said.client_secret else ""
    tokens = await sign_in(settings.upstreams[options.name].url, said, secret, show)
    async with keeping.locked():
        keeping.write(tokens)
    kept = "in the keyring" if said.in_keyring else f"in {keeping.folder}"
    lasts = "" if tokens.refresh else "; there is no refresh token, so the sign-in ends when the access token expires"
    text = f"signed in to `{options.name}`; the tokens are stored {kept}{lasts}"
    print(json.dumps({"upstream": options.name, "refreshable": bool(tokens.refresh)}) if options.json else text)
    return 0


async def logout(options: argparse.Namespace, keeping: TokenStorage) -> int:
    async with keeping.locked():
        there = keeping.remove()
    text = f"signed out of `{options.name}`; its tokens are deleted" if there else f"not signed in to `{options.name}`"
    print(json.dumps({"upstream": options.name, "forgotten": there}) if options.json else text)
    return 0 if there else 1


# Starting the upstreams for what they list, with a word on the terminal about what is waited for.


def list_tools(settings: Settings, quiet: bool, pins: Pins | None = None) -> tuple[list[Tool], set[str]]:
    """As `app.listed_tools`: the tools, and the names of the upstreams that could not be listed."""
    with Progress(quiet=quiet) as progress:
        progress.show(f"starting {', '.join(f'`{name}`' for name in settings.upstreams)} …")
        return asyncio.run(listed_tools(settings, pins))
