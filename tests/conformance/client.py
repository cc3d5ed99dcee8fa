"""The client that the conformance suite starts: `client.py direct|guard SERVER-URL`.

The SDK's client, directly or through a guard whose upstream is the suite's server. The scenario, its revision and its
context are in the environment (`MCP_CONFORMANCE_…`). What a person does for the guard is done here: name the issuer
that an error names, and sign in.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider, TokenStorage
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from mcp_guard.app import NoPins, PrintingListener
from mcp_guard.config import load
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.protocol.methods import LATEST
from mcp_guard.runtime import make_upstream_group
from mcp_guard.sign_ins import SignInStorage
from mcp_guard.upstream.start import make_upstream
from mcp_guard.upstream.user import UpstreamUser
from tests.live.running_guard import ALLOW_ALL, command, write_config

SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
CONTEXT: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
MODE: Any = "legacy" if os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "") < "2026" else "auto"
CLIENT_ID = "https://conformance-test.local/client-metadata.json"
OF_USERS = "auth/enterprise-managed-authorization"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
PROVIDER = (
    f'identity_provider = {{ client_id = "{CONTEXT.get("idp_client_id")}", issuer = "{CONTEXT.get("idp_issuer")}" }}'
)
MIGRATION = "auth/authorization-server-migration"
NAMES_ANOTHER = re.compile(r"names the authorization server `([^`]+)`, ")
RETURN = "http://127.0.0.1:1/callback"
ARGUMENTS: dict[str, dict[str, Any]] = {"add_numbers": {"a": 5, "b": 3}}


class Memory(TokenStorage):
    tokens: OAuthToken | None = None
    info: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.info

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.info = client_info


def own_provider(url: str) -> httpx.Auth:
    """The SDK's OAuth client, as the scenario needs it."""
    storage, known = Memory(), CONTEXT.get("client_id", "")
    if "private_key_pem" in CONTEXT:
        signer = SignedJWTParameters(
            issuer=known, subject=known, signing_algorithm=CONTEXT["signing_algorithm"],
            signing_key=CONTEXT["private_key_pem"],
        ).create_assertion_provider()  # fmt: skip
        return PrivateKeyJWTOAuthProvider(url, storage, known, signer)
    if SCENARIO.startswith("auth/client-credentials"):
        return ClientCredentialsOAuthProvider(url, storage, known, CONTEXT["client_secret"])
    found: dict[str, str] = {}

    async def visit(address: str) -> None:
        async with httpx.AsyncClient(trust_env=False) as browser:
            location = (await browser.get(address)).headers["location"]
        found.update({name: values[-1] for name, values in parse_qs(urlsplit(location).query).items()})

    async def come_back() -> AuthorizationCodeResult:
        return AuthorizationCodeResult(code=found.get("code", ""), state=found.get("state"), iss=found.get("iss"))

    metadata = OAuthClientMetadata.model_validate({"redirect_uris": [RETURN], "client_name": "conformance"})
    if known:
        given = {"client_id": known, "client_secret": CONTEXT.get("client_secret"), "redirect_uris": [RETURN]}
        storage.info = OAuthClientInformationFull.model_validate(given)
    return OAuthClientProvider(url, metadata, storage, visit, come_back, client_metadata_url=CLIENT_ID)


def configure(folder: Path, url: str, more: str = "") -> Path:
    upstream = f'[upstreams.far]\nurl = "{url}"\n'
    if SCENARIO.startswith("auth/"):
        grant = "client_credentials" if "client-credentials" in SCENARIO else "authorization_code"
        if SCENARIO == OF_USERS:
            grant, more = "id_jag", f'{more}\nas = "user"\nsubject_token_type = "{ID_TOKEN}"\n{PROVIDER}'
        upstream += f'[upstreams.far.oauth]\ngrant = "{grant}"\nallowed_scopes = ["*"]\n{more}\n'
        if client := CONTEXT.get("client_id", CLIENT_ID if SCENARIO.endswith("cimd") else ""):
            upstream += f'client_id = "{client}"\n'
        for key, name in (("client_secret", "client_secret"), ("client_key", "private_key_pem")):
            if name in CONTEXT:
                (folder / key).touch(0o600)
                (folder / key).write_text(CONTEXT[name])
                upstream += f'{key} = {{ file = "{key}" }}\n'
    return write_config(folder, upstream, ALLOW_ALL, guard="plain_names = true")


def sign_in(config: Path, *more: str) -> str:
    """Sign in with a browser that follows the address; returns what the command says."""
    words = command("upstreams", "login", "far", "--no-browser", "--config", str(config), *more)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        if "sign in here: " in said:
            httpx.get(said.partition("sign in here: ")[2].strip(), trust_env=False, follow_redirects=True)
        return said + process.stderr.read()


def prepare(folder: Path, url: str) -> Path:
    """A configuration with which the guard can reach the server, and its sign-in."""
    config = configure(folder, url)
    return sign_in_as_told(folder, url, config) if SCENARIO.startswith("auth/") else config


def sign_in_as_told(folder: Path, url: str, config: Path) -> Path:
    """Sign in; with another configuration if an error names an authorization server to trust."""
    probe = command("doctor", "--upstreams", "--config", str(config))
    is_interactive = "client-credentials" not in SCENARIO
    said = sign_in(config) if is_interactive else subprocess.run(probe, capture_output=True, text=True).stderr
    if named := NAMES_ANOTHER.search(said):
        config = configure(folder, url, f'issuer = "{named[1]}"')
        said = sign_in(config) if is_interactive else ""
    sys.stderr.write(said + "\n")
    return config


async def answer_with_defaults(context: Any, params: Any) -> types.ElicitResult:
    schema = getattr(params, "requested_schema", None) or {}
    members = {name: item["default"] for name, item in schema.get("properties", {}).items() if "default" in item}
    return types.ElicitResult(action="accept", content=members)


async def use(client: Client, config: Path | None) -> None:
    """List the tools and call each; where the guard says which sign-in is missing, sign in and call once more."""
    for tool in (await client.list_tools()).tools:
        if tool.name.startswith("guard__"):
            continue
        try:
            await client.call_tool(tool.name, ARGUMENTS.get(tool.name, {}))
        except Exception as refusal:
            wanted = re.search(r"--scope '([^']+)'", str(refusal))
            if config is None or wanted is None:
                sys.stderr.write(f"{tool.name}: {refusal}\n")
                continue
            sys.stderr.write(sign_in(config, "--scope", wanted[1]) + "\n")
            await client.call_tool(tool.name, ARGUMENTS.get(tool.name, {}))


async def list_as_user(folder: Path, url: str) -> None:
    """List the tools over the guard's own connection, as the user of the scenario's token, whose issuer publishes no
    keys: so a guard that serves HTTP would not take it. Where an error names the issuer, do what it says."""
    user = UpstreamUser("demo-user@example.com", CONTEXT["idp_issuer"], CONTEXT["idp_id_token"])
    for _ in range(2):
        settings = load(configure(folder, url, f'issuer = "{NAMED[0]}"' if NAMED else ""))
        upstream = make_upstream(settings, "far", Scrubber(), SignInStorage(settings).of, user)
        upstream.start()
        group, notes = make_upstream_group(settings, [upstream], NoPins(), is_patient=True), list[str]()
        hello = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "conformance", "version": "1"}}
        async with asyncio.TaskGroup() as tasks:
            await group.start(hello, tasks, PrintingListener(notes.append), prefer_stateless=MODE == "auto")
            group.announce()
            await group.ready()
            await group.close()
        sys.stderr.write("\n".join(notes) + "\n")
        NAMED.extend(NAMES_ANOTHER.findall("".join(notes)))


NAMED: list[str] = []
"""The issuers that errors have named."""


async def main(how: str, url: str) -> None:
    if how == "direct":
        auth = own_provider(url) if SCENARIO.startswith("auth/") else None
        async with httpx.AsyncClient(auth=auth, trust_env=False, timeout=20, follow_redirects=True) as http:
            transport = streamable_http_client(url, http_client=http)
            async with Client(transport, mode=MODE, elicitation_callback=answer_with_defaults) as client:
                await use(client, None)
        return
    with tempfile.TemporaryDirectory() as name:
        if SCENARIO == OF_USERS:
            await list_as_user(Path(name), url)
            return
        config = prepare(Path(name), url)
        await use_through_guard(config)
        if SCENARIO == MIGRATION:  # the server has moved meanwhile
            await use_through_guard(sign_in_as_told(Path(name), url, config))


async def use_through_guard(config: Path) -> None:
    words = command("run", "--config", str(config))
    server = StdioServerParameters(command=words[0], args=words[1:], env={"PYTHONPATH": os.getcwd()})
    async with Client(server, mode=MODE, elicitation_callback=answer_with_defaults) as client:
        await use(client, config)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
