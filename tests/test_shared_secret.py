"""The secret that gateways share: made once, private, and as configured."""

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.settings import SecretReference, Settings
from mcp_guard.shared_secret import FILE, SharedSecret, read_shared_secret
from mcp_guard.start_notes import warn_of_other_secret
from tests.live.preloaded_cli import run_warm
from tests.live.running_guard import scripted, write_config


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(write_config(tmp_path, scripted("up", tmp_path)))


def test_gateways_of_one_state_folder_share_a_secret_that_the_first_makes(settings: Settings) -> None:
    first = read_shared_secret(settings)
    assert read_shared_secret(settings) == first
    path = settings.state_dir / FILE
    assert (path.stat().st_mode & 0o777, len(path.read_text().strip())) == (0o600, 64)
    assert first.secret not in repr(first)


def test_a_configured_secret_counts_and_must_be_long(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), more='[ledger]\nshared_secret = { file = "secret" }\n')
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text("s3cr3t" * 6 + "\n")
    assert read_shared_secret(load(config)) == SharedSecret("s3cr3t" * 6, load(config).origin)
    assert not (tmp_path / "state" / FILE).exists()
    (tmp_path / "secret").write_text("s3cr3t")
    with pytest.raises(ConfigError, match=r"`ledger\.shared_secret` has 6 characters") as refused:
        read_shared_secret(load(config))
    assert "s3cr3t" not in str(refused.value)
    with pytest.raises(ConfigError, match="`NOT_SET` is not set"):
        read_shared_secret(replace(load(config), shared_secret=SecretReference("env", "NOT_SET")))


def test_neither_serve_nor_web_begins_a_ledger_with_a_secret_that_is_too_short(tmp_path: Path) -> None:
    more = '[ledger]\nshared_secret = { env = "SECRET" }\n[serve]\n[web]\nurl = "http://localhost:8764"\n'
    config = write_config(tmp_path, scripted("up", tmp_path), more=more)
    for command in ("serve", "web"):
        refused = run_warm((command, "--config", str(config)), env={"SECRET": "s3cr3t"})
        assert (refused.returncode, "`ledger.shared_secret` has 6 characters" in refused.stderr) == (3, True)
        assert not (tmp_path / "state").exists()


def test_a_file_that_others_can_read_or_that_is_cut_off_is_refused(settings: Settings) -> None:
    read_shared_secret(settings)
    path = settings.state_dir / FILE
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="accessible to other users"):
        read_shared_secret(settings)
    path.chmod(0o600)
    path.write_text("cut off")
    with pytest.raises(ConfigError, match="7 characters"):
        read_shared_secret(settings)


def test_purposes_and_origins_have_keys_of_their_own() -> None:
    here, there = (SharedSecret("x" * 32, origin) for origin in ("a.example", "b.example"))
    keys = [secret.derive(purpose) for secret in (here, there) for purpose in ("request-state", "sign-ins")]
    assert len({*keys, *(secret.id for secret in (here, there))}) == 6
    assert {len(key) for key in keys} == {32}


def test_a_secret_that_differs_after_a_restore_is_no_other_gateway(settings: Settings) -> None:
    writer = open_writer(ledger_settings(settings), CLOCK)
    notes: list[str] = []
    try:
        for secret in "ab":
            warn_of_other_secret(writer, SharedSecret(secret * 32, settings.origin), False, notes.append)
    finally:
        writer.close()
    assert notes == []


def test_a_gateway_with_another_secret_says_so(settings: Settings) -> None:
    writer = open_writer(ledger_settings(settings), CLOCK)
    notes: list[str] = []
    try:
        for secret, warnings in (("a", 0), ("a", 0), ("b", 2), ("b", 2), ("a", 4)):
            warn_of_other_secret(writer, SharedSecret(secret * 32, settings.origin), True, notes.append)
            assert len(notes) == warnings
    finally:
        writer.close()
    assert "another `ledger.shared_secret`" in notes[0]
