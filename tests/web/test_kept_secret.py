"""A secret that strangers can have read: kept for some seconds, as is a failure."""

from pathlib import Path

import pytest

from mcp_guard.core.errors import ConfigError
from mcp_guard.secrets import read_secret
from mcp_guard.settings import SecretReference
from mcp_guard.web.kept_secret import KEPT_SECONDS, KeptSecret
from tests.notify.test_delivery import keep


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
