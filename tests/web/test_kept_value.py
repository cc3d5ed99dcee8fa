"""What strangers can have read: kept for some seconds, as is a failure."""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.config.file import check
from mcp_guard.core.errors import ConfigError, UpstreamError
from mcp_guard.core.identity_provider import IdentityProvider
from mcp_guard.identity.dpop import ProofsOfProcess
from mcp_guard.network import Network
from mcp_guard.secrets import read_secret
from mcp_guard.settings import SecretReference
from mcp_guard.sign_ins import SignInStorage
from mcp_guard.web.id_token import SignInFailed
from mcp_guard.web.kept_value import KEPT_SECONDS, keep_secret
from mcp_guard.web.oidc import PAUSE_SECONDS, OidcClient
from mcp_guard.web.oidc_attempts import SealedAttempts
from mcp_guard.web.sessions import Person
from mcp_guard.web.upstream_sign_ins import UpstreamSignIns
from tests.notify.test_delivery import keep

NOBODY = "https://127.0.0.1:9"
"""Where nothing listens."""


async def test_what_was_read_and_that_it_failed_are_kept_for_some_seconds(tmp_path: Path) -> None:
    now = 0.0

    secret = keep_secret(lambda: read_secret(SecretReference("file", "secret"), tmp_path, {}), lambda: now)
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot read `secret`"):
            await secret.read()
        keep(tmp_path / "secret", "first")
    now += KEPT_SECONDS
    assert await secret.read() == "first"
    keep(tmp_path / "secret", "second")
    assert await secret.read() == "first"
    now += KEPT_SECONDS
    assert await secret.read() == "second"


async def test_settings_for_requests_to_a_provider_are_read_in_a_thread_and_kept() -> None:
    readers: list[str] = []
    now = 0.0

    def network() -> Network:
        readers.append(threading.current_thread().name)
        return Network()

    client = OidcClient(IdentityProvider(NOBODY, "guard"), "", lambda: "", network, monotonic=lambda: now)
    for _ in range(2):
        with pytest.raises(SignInFailed, match="cannot be reached"):
            await client.metadata()
        now += PAUSE_SECONDS
    assert len(readers) == 1
    assert threading.main_thread().name not in readers


def make_sign_ins(folder: Path, url: str, oauth: str = "", more: str = "") -> UpstreamSignIns:
    """At the upstream `far`."""
    config = (
        f'[guard]\npolicies = "policies.cedar"\n[upstreams.far]\nurl = "{url}/mcp"\n'
        f'oauth = {{ as = "user", grant = "authorization_code", client_id = "g"{oauth} }}\n{more}\n'
    )
    settings = replace(check(config, folder / "mcp-guard.toml"), state_dir=folder)
    attempts = SealedAttempts(b"", ProofsOfProcess())
    return UpstreamSignIns(settings, "https://guard.example", SignInStorage(settings), attempts)


async def test_sign_ins_at_an_upstream_run_its_programs_once(tmp_path: Path) -> None:
    program = json.dumps(["sh", "-c", f"echo >>{tmp_path}/runs; echo http://proxy.example"])
    secret = f", client_secret = {{ command = {program} }}"
    sign_ins = make_sign_ins(tmp_path, NOBODY, secret, f"network = {{ proxy = {{ command = {program} }} }}")
    for _ in range(2):
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await sign_ins.begin("far", Person("alice"), 0)
    assert (tmp_path / "runs").read_text() == "\n\n"  # one for the secret, one for the proxy


async def test_sign_ins_at_an_upstream_discover_its_endpoints_once(tmp_path: Path) -> None:
    requests = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        sign_ins = make_sign_ins(tmp_path, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        counts = []
        for _ in range(2):
            with pytest.raises(UpstreamError, match="publishes no authorization server metadata"):
                await sign_ins.begin("far", Person("alice"), 0)
            counts.append(requests)
    assert counts[0] == counts[1] > 0
