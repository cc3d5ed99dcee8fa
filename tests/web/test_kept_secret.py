"""A secret that strangers can have read: kept for some seconds, as is a failure."""

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
from mcp_guard.web.kept_secret import KEPT_SECONDS, KeptSecret
from mcp_guard.web.oidc import PAUSE_SECONDS, OidcClient
from mcp_guard.web.oidc_attempts import SealedAttempts
from mcp_guard.web.sessions import Person
from mcp_guard.web.upstream_sign_ins import UpstreamSignIns
from tests.notify.test_delivery import keep

NOBODY = "https://127.0.0.1:9"
"""Where nothing listens."""


async def test_what_was_read_and_that_it_failed_are_kept_for_some_seconds(tmp_path: Path) -> None:
    now = 0.0
    secret = KeptSecret(lambda: read_secret(SecretReference("file", "secret"), tmp_path, {}), lambda: now)
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


async def test_sign_ins_at_an_upstream_run_its_programs_once(tmp_path: Path) -> None:
    program = json.dumps(["sh", "-c", f"echo >>{tmp_path}/runs; echo http://proxy.example"])
    oauth = (
        f'{{ as = "user", grant = "authorization_code", client_id = "g", client_secret = {{ command = {program} }} }}'
    )
    upstream = (
        f'[upstreams.far]\nurl = "{NOBODY}/mcp"\noauth = {oauth}\nnetwork = {{ proxy = {{ command = {program} }} }}'
    )
    config = f'[guard]\npolicies = "policies.cedar"\n{upstream}\n'
    settings = replace(check(config, tmp_path / "mcp-guard.toml"), state_dir=tmp_path)
    memory = ProofsOfProcess()
    sign_ins = UpstreamSignIns(settings, "https://guard.example", SignInStorage(settings), SealedAttempts(b"", memory))
    for _ in range(2):
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await sign_ins.begin("far", Person("alice"), 0)
    assert (tmp_path / "runs").read_text() == "\n\n"  # one for the secret, one for the proxy
