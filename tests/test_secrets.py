"""Secrets from each source, for servers, notifiers and witnesses."""

import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from mcp_guard.config.file import Config, check
from mcp_guard.config.types import SecretConfig
from mcp_guard.configured_secrets import configured_secrets
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.diagnostics.configured_secrets import inspect_secrets
from mcp_guard.outbound import DeliveryError, Destination
from mcp_guard.secrets import SOURCES, make_environment, read_secret
from mcp_guard.settings import NotifierSettings, SecretReference, WitnessSettings

VALUE = "a secret of ours"


def place_of(source: str, folder: Path, environment: dict[str, str]) -> SecretReference:
    """The configuration of a secret `VALUE` in this source."""
    (folder / "secret").touch(0o600)
    (folder / "secret").write_text(f"{VALUE}\n")
    environment["SECRET"] = VALUE
    said = {"env": "SECRET", "file": "secret", "keyring": "mcp-guard/it", "command": ["cat", "secret"]}
    return SecretConfig.model_validate({source: said[source]}).reference()


@pytest.fixture(autouse=True)
def filled_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keyring

    from tests.ledger.file_keyring import FileKeyring

    monkeypatch.setenv("TEST_KEYRING", str(tmp_path / "keyring.json"))
    (tmp_path / "keyring.json").write_text(json.dumps({"mcp-guard/it": VALUE}))
    monkeypatch.setattr(keyring.core, "_keyring_backend", FileKeyring())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "value", ["http://me:far from plain@proxy:3128", "me:far from plain@proxy:3128", " http://me:far from plain@proxy"]
)
def test_password_of_a_proxy_is_scrubbed_in_every_form_that_programs_read(value: str) -> None:
    scrubber = Scrubber()
    make_environment({"https_proxy": value, "NO_PROXY": "localhost:80@x"}, {}, Path(), scrubber)
    assert scrubber.clean(b"407 for me:far from plain") == b"407 for me:[secret https_proxy]"


def test_variable_of_a_server_may_be_empty_but_no_other_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client sets an empty one for a secret that its user left blank; the server would start with it, too."""
    monkeypatch.setenv("BLANK", "")
    blank = {"API_TOKEN": SecretReference("env", "BLANK")}
    assert make_environment({}, blank, tmp_path, Scrubber(), empty_ok=True) == ({"API_TOKEN": ""}, [])
    with pytest.raises(ConfigError, match="environment variable `BLANK` is empty"):
        make_environment({}, blank, tmp_path, Scrubber())
    monkeypatch.delenv("BLANK")
    with pytest.raises(ConfigError, match="environment variable `BLANK` is not set"):
        make_environment({}, blank, tmp_path, Scrubber(), empty_ok=True)
    (tmp_path / "secret").touch(0o600)
    with pytest.raises(ConfigError, match="`secret` is empty"):
        make_environment({}, {"A": SecretReference("file", "secret")}, tmp_path, Scrubber(), empty_ok=True)


def test_every_source_can_be_configured() -> None:
    assert set(SecretConfig.model_fields) == set(SOURCES)


@pytest.mark.parametrize("source", list(SOURCES))
def test_servers_notifiers_and_witnesses_read_secrets_from_every_source(tmp_path: Path, source: str) -> None:
    environment = dict(os.environ)
    place = place_of(source, tmp_path, environment)
    assert read_secret(place, tmp_path, environment) == VALUE
    notifier = NotifierSettings("webhook", {"secret": place}, tmp_path)
    assert Destination(notifier.options, environment, notifier.base_dir).secret("secret") == VALUE
    witness = WitnessSettings("webhook", {"secret": place}, tmp_path)
    assert Destination(witness.options, environment, witness.base_dir).secret("secret") == VALUE


@pytest.mark.parametrize("source", ["file", "keyring", "command"])
def test_a_secret_that_no_environment_can_contain_is_refused(tmp_path: Path, source: str) -> None:
    place = place_of(source, tmp_path, {})
    (tmp_path / "secret").write_text(f"{VALUE}\0{VALUE}")
    (tmp_path / "keyring.json").write_text(json.dumps({"mcp-guard/it": f"{VALUE}\0{VALUE}"}))
    with pytest.raises(ConfigError, match=r"contains the character U\+0000") as caught:
        make_environment({}, {"TOKEN": place}, tmp_path, Scrubber())
    assert VALUE not in str(caught.value)


def test_failing_notifier_command_is_reported_without_its_output(tmp_path: Path) -> None:
    place = SecretReference("command", "sh", ("sh", "-c", f"echo '{VALUE}'; echo '{VALUE}' >&2; exit 9"))
    with pytest.raises(DeliveryError) as caught:
        Destination({"secret": place}, dict(os.environ), tmp_path).secret("secret")
    assert str(caught.value) == "`secret`: the command `sh` exited with status 9"


def test_forgotten_secret_is_no_longer_scrubbed_and_others_are() -> None:
    scrubber = Scrubber()
    scrubber.learn("old", "old-token-1")
    scrubber.learn("new", "new-token-2")
    scrubber.forget("old-token-1")
    assert scrubber.clean(b"old-token-1 new-token-2") == b"old-token-1 [secret new]"
    scrubber.forget("new-token-2")
    assert not scrubber
    assert scrubber.longest == 0


EVERY_SECRET = """
[guard]
policies = "p"
[upstreams.local]
command = "true"
env = { A = SECRET }
[upstreams.remote]
url = "https://mcp.example.com"
headers = { B = SECRET }
bearer = SECRET
network = { proxy = SECRET }
[upstreams.signed_in]
url = "https://mcp.example.com"
oauth = { client_id = "guard", client_secret = SECRET, token_url = "https://login.example.com" }
[upstreams.by_key]
url = "https://mcp.example.com"
oauth = { client_id = "guard", client_key = SECRET, token_url = "https://login.example.com" }
[upstreams.as_user]
url = "https://mcp.example.com"
[upstreams.as_user.oauth]
as = "user"
grant = "id_jag"
client_id = "guard"
identity_provider = { issuer = "https://a.example", client_id = "guard", client_secret = SECRET, client_key = SECRET }
[notifiers.hook]
kind = "webhook"
url = "https://example.com"
secret = SECRET
[notifiers.chat]
kind = "slack"
url = SECRET
[notifiers.app]
kind = "slack"
token = SECRET
channel = "C1"
signing_secret = SECRET
team = "T1"
[notifiers.teams]
kind = "teams"
url = SECRET
[web]
url = "https://guard.example.com"
oidc = { issuer = "https://login.example.com", client_id = "guard", client_secret = SECRET }
[notifiers.mail]
kind = "email"
host = "mail.example.com"
sender = "guard@example.com"
to = ["ops@example.com"]
password = SECRET
[witnesses.hook]
kind = "webhook"
url = "https://example.com"
secret = SECRET
[ledger]
database = SECRET
shared_secret = SECRET
[serve]
port = 8080
[telemetry]
metrics = true
metrics_token = SECRET
otlp_endpoint = "https://otlp.example.com"
otlp_headers = { C = SECRET }
[network]
proxy = SECRET
"""


def references(value: object) -> list[SecretReference]:
    """Every reference that these settings hold anywhere."""
    if isinstance(value, SecretReference):
        return [value]
    if is_dataclass(value):
        return references([getattr(value, field.name) for field in fields(value)])
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [reference for item in items for reference in references(item)]


def test_list_of_secrets_has_every_one_that_can_be_configured(tmp_path: Path) -> None:
    """`doctor`, `secrets list`, the check of owners and that of packages go by this one list."""
    numbers = itertools.count()
    text = re.sub("SECRET", lambda _: f'{{ file = "{next(numbers)}" }}', EVERY_SECRET)
    settings = check(text, tmp_path / "mcp-guard.toml")
    listed = {secret.reference.name: secret.key for secret in configured_secrets(settings)}
    configured = next(numbers)
    assert len(listed) == len(configured_secrets(settings)) == configured
    assert set(listed) == {reference.name for reference in references(settings)}
    schema = json.dumps(Config.model_json_schema())
    assert schema.count("#/$defs/SecretConfig") == configured, "is the new kind of secret in `EVERY_SECRET`?"


def test_secret_that_nobody_gives_is_not_waited_for(tmp_path: Path) -> None:
    """As a keyring that asks somebody to unlock it; here a pipe into which nothing is written."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    text = '[guard]\npolicies = "p"\n[upstreams.up]\ncommand = "true"\nenv = { T = { file = "pipe" } }\n'
    (state,) = inspect_secrets(check(text, tmp_path / "mcp-guard.toml"), limit=0.1)
    assert state.failure == "the file gave no secret within 0.1 s"
    (tmp_path / "pipe").open("wb").close()  # lets the reader go
