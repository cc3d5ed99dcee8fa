"""`mcp-guard upstreams`: sign in to upstreams that require a user (OAuth), or sign out."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial

from mcp_guard.app import listed_tools
from mcp_guard.cli.options import Parser, add_config, add_json
from mcp_guard.cli.output import print_result, print_text
from mcp_guard.config import load
from mcp_guard.config.errors import nearest_or
from mcp_guard.core.errors import ConfigError, UpstreamError
from mcp_guard.core.model import Tool
from mcp_guard.ports import Pins
from mcp_guard.secrets import read_network, read_secret
from mcp_guard.server_log import note
from mcp_guard.settings import OAuthSettings, SecretReference, Settings
from mcp_guard.sign_ins import SignInStorage
from mcp_guard.upstream.last_words import LastWords
from mcp_guard.upstream.oauth.authorization_code import sign_in
from mcp_guard.upstream.oauth.discovery import NoToken
from mcp_guard.upstream.oauth.registration import ClientRegistration, document_url
from mcp_guard.upstream.oauth.token_endpoint import ClientCredentials
from mcp_guard.upstream.oauth.token_storage import TokenStorage
from mcp_guard.upstream.user import UpstreamUser
from mcp_guard.verifier.progress import Progress


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    sign_ins = SignInStorage(settings, note)
    user = UpstreamUser(options.user, options.issuer) if options.user else None
    oauth, storage = find_sign_in(settings, options.name, sign_ins, user)
    sign_ins.prepare()
    try:
        if options.verb == "logout":
            return asyncio.run(logout(options, storage))
        document, credentials = document_url(settings.pages), read_credentials(settings, oauth)
        find_client = partial(ClientRegistration, document=document, credentials=credentials)
        return asyncio.run(login(settings, options, oauth, find_client, storage))
    except NoToken as why:
        raise UpstreamError(f"upstream `{options.name}`: {why}", "see docs/howto/secrets.md") from None


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mcp-guard upstreams", description="Sign in to upstreams that require a user, or sign out.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    signing_in = verbs.add_parser("login", help="sign in with the browser and store the tokens for the guard")
    signing_in.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")
    signing_in.add_argument("--scope", metavar="SCOPES", default="", help="request these scopes, too")
    signing_out = verbs.add_parser(
        "logout", help="delete the stored tokens; the upstream is not told, so they expire on their own"
    )
    for verb in (signing_in, signing_out):
        verb.add_argument("name", metavar="UPSTREAM", help="a name from [upstreams] in the configuration")
        verb.add_argument(
            "--user", metavar="USER", default="", help="this user's, of an upstream that is called as users"
        )
        verb.add_argument("--issuer", metavar="URL", default="", help="the issuer in [issuers] that calls the user so")
        add_config(verb)
        add_json(verb)
    return parser


def find_sign_in(
    settings: Settings, name: str, sign_ins: SignInStorage, user: UpstreamUser | None
) -> tuple[OAuthSettings, TokenStorage]:
    """Raises: ConfigError, LedgerError."""
    server = settings.upstreams.get(name)
    if server is None:
        configured = ", ".join(f"`{upstream}`" for upstream in settings.upstreams)
        raise ConfigError(
            f"no upstream `{name}` in [upstreams]; configured: {configured or 'none'}",
            nearest_or(name, settings.upstreams, f"add [upstreams.{name}] to the configuration"),
        )
    if server.oauth is None or not server.oauth.is_interactive:
        hint = f'[upstreams.{name}.oauth] grant = "authorization_code"'
        raise ConfigError(f"upstream `{name}` does not require a user to sign in", hint)
    if server.as_user != (user is not None):
        verb = "requires" if server.as_user else "takes no"
        raise ConfigError(
            f"upstream `{name}` {verb} `--user`: `[upstreams.{name}.oauth] as` says whose sign-in calls it",
            f"mcp-guard upstreams login {name}{' --user USER' if server.as_user else ''}",
        )
    return server.oauth, sign_ins.of(name, user)


def read_credentials(settings: Settings, oauth: OAuthSettings) -> ClientCredentials:
    """Raises: ConfigError."""

    def read(reference: SecretReference | None) -> str:
        return read_secret(reference, settings.path.parent, os.environ) if reference else ""

    return ClientCredentials(read(oauth.client_secret), read(oauth.client_key))


async def login(
    settings: Settings,
    options: argparse.Namespace,
    oauth: OAuthSettings,
    find_client: Callable[[str], ClientRegistration],
    storage: TokenStorage,
) -> int:
    def show(address: str) -> None:
        print_text(f"sign in here: {address}", file=sys.stderr)
        if not options.no_browser:
            import webbrowser

            webbrowser.open(address)

    upstream = settings.upstreams[options.name]
    network = read_network(upstream.network, settings.path.parent, os.environ)
    tokens = await sign_in(upstream.url, oauth, network, find_client, show, tuple(options.scope.split()))
    async with storage.locked() as held:
        await held.write(tokens)
    lasts = "" if tokens.refresh else "; there is no refresh token, so the sign-in ends when the access token expires"
    whose = f" as `{options.user}`" if options.user else ""
    text = f"signed in to `{options.name}`{whose}; the tokens are stored {storage.where}{lasts}"
    print_result(options.json, {"upstream": options.name, "refreshable": bool(tokens.refresh)}, text)
    return 0


async def logout(options: argparse.Namespace, storage: TokenStorage) -> int:
    async with storage.locked() as held:
        was_signed_in = await held.remove()
    text = (
        f"signed out of `{options.name}`; its tokens are deleted"
        if was_signed_in
        else f"not signed in to `{options.name}`"
    )
    print_result(options.json, {"upstream": options.name, "forgotten": was_signed_in}, text)
    return 0 if was_signed_in else 1


def list_tools(
    settings: Settings, quiet: bool, pins: Pins | None = None
) -> tuple[list[Tool], dict[str, LastWords | None]]:
    """As `app.listed_tools`: the tools, and the upstreams that could not be listed."""
    with Progress(quiet=quiet) as progress:
        progress.show(f"starting {', '.join(f'`{name}`' for name in settings.upstreams)} …")
        return asyncio.run(listed_tools(settings, pins))
