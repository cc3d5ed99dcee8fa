"""The cache of the checked configuration: it never changes what the guard does."""

import os
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import mcp_guard.config.cache
import mcp_guard.settings
from mcp_guard.config import load, load_to_run
from mcp_guard.config.cache import FILE, VALUES, find_settings, store_settings
from mcp_guard.config.file import check
from mcp_guard.core.anomaly import DriftRule
from mcp_guard.core.errors import ConfigError
from mcp_guard.settings import Settings

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
GUARD = '[guard]\npolicies = "policies"\n'
EVERYTHING = """
[guard]
policies = "policies"
shadow = "candidate"
time_zone = "Europe/Berlin"
ticket_pattern = "INC-[0-9]+"
hold_seconds = inf
[network]
proxy = { env = "PROXY" }
ca_file = "ca.pem"
[agents.worker]
owner = "bob"
instance = "agent"
[people.dana]
identities = [{ issuer = "https://login.example", subject = "dana@corp" }]
[approvers.alice]
name = "Alice \\U0001F510 \\u202e"
identities = [{ issuer = "https://login.example", subject = "alice@corp" }]
[routes.r]
approvers = ["alice"]
notify = ["hook", "mail", "print"]
[notifiers.hook]
kind = "webhook"
url = "https://hooks.example/x"
secret = { file = "secret" }
[notifiers.mail]
kind = "email"
host = "mail.example"
sender = "a@b.example"
to = ["c@d.example"]
[notifiers.print]
kind = "command"
command = ["./print"]
[upstreams.crm]
command = "crm"
args = ["--x"]
first_use = "ask"
env = { A = "b", TOKEN = { command = ["./token", "x"] } }
[upstreams.web]
url = "https://api.example/mcp"
oauth = { client_id = "x", client_secret = { keyring = "a/b" } }
[tools."crm__update_deal"]
effect = "write"
mode = "enforce"
resource = { type = "Deal", id = "/deal_id" }
sinks = ["/to"]
redact = ["/secret"]
[tools."crm__update_deal".facts]
tool = "get_deal"
arguments = { deal_id = "/deal_id" }
fields = { amount = "total" }
[resources.Deal.attributes]
amount = "number"
[rates.writes]
window_seconds = 3600
by = ["agent"]
effects = ["write"]
[risk.signals.odd]
command = ["./odd"]
weight = 10
unknown_weight = 20
[risk.drift]
weight = 10
[hooks]
agent = "a"

[serve]
socket = "guard.sock"
[issuers.corp]
issuer = "https://login.example"
jwks = { file = "jwks.json" }
[connect.users]
1000 = "worker"
[ledger]
keep_payload_days = 30
[witnesses.git]
kind = "git"
remote = "witness"
every_seconds = 60
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose state folder exists, as after the first start of a guard."""
    (tmp_path / "state").mkdir(mode=0o700)
    path = tmp_path / "mcp-guard.toml"
    path.write_text(
        '[guard]\npolicies = "policies"\n[agents.worker]\nowner = "bob"\n[upstreams.crm]\ncommand = "crm"\n'
    )
    return path


def cached(path: Path) -> Settings | None:
    return find_settings(path, path.read_text())


def plant(path: Path) -> None:
    """A cache as the guard would write it, but with other policies."""
    store_settings(path, path.read_text(), replace(load(path), policies=Path("/elsewhere")))


def kinds(hint: Any, known: set[type]) -> set[type]:
    """Every dataclass and enumeration in a type."""
    for argument in get_args(hint):
        kinds(argument, known)
    if isinstance(hint, type) and hint not in known and (is_dataclass(hint) or issubclass(hint, Enum)):
        known.add(hint)
        for member in get_type_hints(hint, vars(mcp_guard.settings) | {"DriftRule": DriftRule}).values():
            kinds(member, known)
    return known


def test_every_value_of_the_settings_can_be_kept() -> None:
    assert kinds(Settings, set()) - {DriftRule} <= set(VALUES)


@pytest.mark.parametrize("text", [EVERYTHING, EXAMPLE.read_text()], ids=["everything", "example"])
def test_settings_come_out_of_the_cache_as_they_went_in(config: Path, text: str) -> None:
    config.write_text(text)
    settings = check(text, config)
    assert cached(config) is None
    store_settings(config, text, settings)
    assert cached(config) == settings
    assert (settings.state_dir / FILE).stat().st_mode & 0o777 == 0o600


def test_only_a_caller_who_asks_for_it_writes_a_cache(config: Path) -> None:
    settings = load(config)
    assert not (config.parent / "state" / FILE).exists()
    assert load_to_run(config) == settings == cached(config)


def no_process() -> int:
    raise OSError("Resource temporarily unavailable")


@pytest.mark.parametrize("fork", [os.fork, no_process], ids=["in another process", "in this one"])
def test_a_guard_that_starts_gets_the_same_settings_and_errors(
    config: Path, fork: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fork", fork)
    calls: list[str] = []
    config.write_text(EVERYTHING)
    assert load_to_run(config, lambda: calls.append("meanwhile")) == check(EVERYTHING, config)
    assert calls == ([] if fork is no_process else ["meanwhile"])
    config.write_text("[guard]\npolicy = 1\n[agent\u202e]\n")
    with pytest.raises(ConfigError) as apart:
        load_to_run(config)
    with pytest.raises(ConfigError) as here:
        load(config)
    assert str(apart.value) == str(here.value)
    assert "\n" in str(here.value)


def test_a_state_folder_is_not_made_for_it(config: Path) -> None:
    (config.parent / "state").rmdir()
    load_to_run(config)
    assert not (config.parent / "state").exists()


def test_a_changed_configuration_is_seen(config: Path) -> None:
    load_to_run(config)
    config.write_text(config.read_text().replace('"policies"', '"others"'))
    assert cached(config) is None
    assert load(config).policies == config.parent / "others"


def test_a_copied_folder_does_not_name_the_files_of_the_first(config: Path, tmp_path: Path) -> None:
    load_to_run(config)
    (tmp_path / "copy").mkdir()
    (config.parent / "state").rename(tmp_path / "copy" / "state")
    moved = config.rename(tmp_path / "copy" / "mcp-guard.toml")
    assert load(moved).policies == tmp_path / "copy" / "policies"


def test_the_cache_of_another_version_is_not_used(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(config)
    assert load(config).policies == Path("/elsewhere")
    monkeypatch.setattr(mcp_guard.config.cache, "__version__", "0.0.1")
    assert load(config).policies == config.parent / "policies"


def test_a_time_zone_that_the_machine_does_not_have_is_not_taken_from_it(config: Path) -> None:
    store_settings(config, config.read_text(), replace(load(config), time_zone="Mars/Olympus"))
    assert cached(config) is None


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[:-9],
    "one line": lambda content: content.replace(b"\n", b" "),
    "binary": lambda _: b"\xff\xfe\n\x00",
    "other values": lambda content: content.replace(b"/elsewhere", b"/anywhere!"),
    "another digest": lambda content: b"0" * 64 + content[64:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_not_used(config: Path, damage: str) -> None:
    plant(config)
    file = config.parent / "state" / FILE
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert load(config).policies == config.parent / "policies"


def link_to_a_file_that_all_can_write(folder: Path) -> None:
    target = (folder / FILE).rename(folder / "target")
    target.chmod(0o666)
    (folder / FILE).symlink_to(target)


LOOSE: dict[str, Callable[[Path], None]] = {
    "a file that all can write": lambda folder: (folder / FILE).chmod(0o602),
    "a folder that all can write": lambda folder: folder.chmod(0o777),
    "a link to a file that all can write": link_to_a_file_that_all_can_write,
}


@pytest.mark.parametrize("loosen", LOOSE)
def test_a_cache_that_others_can_write_is_not_obeyed(config: Path, loosen: str) -> None:
    plant(config)
    assert load(config).policies == Path("/elsewhere")
    LOOSE[loosen](config.parent / "state")
    assert load(config).policies == config.parent / "policies"


def test_who_cannot_write_the_configuration_uses_no_cache(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs as the guard's user may write the state folder, but not the configuration of the operator."""
    plant(config)
    monkeypatch.setattr(os, "access", lambda path, _: path != config)  # root may write everything
    assert load(config).policies == config.parent / "policies"
