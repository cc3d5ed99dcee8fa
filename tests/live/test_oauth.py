"""Upstreams over HTTP with OAuth: tokens are obtained, renewed and refused, and no call that may have run is resent."""

import json
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import pytest

from tests.live.authorization_server import Authority
from tests.live.http_guard import NO_TLS
from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import Client, cli, log, text, write_config
from tests.live.test_session import eventually
from tests.storage.postgres_server import server

SECRET = "canary-client/secret+1"
PLACE = '{ file = "client-secret" }'


def configure(folder: Path, section: str) -> Path:
    (folder / "client-secret").touch(0o600)
    (folder / "client-secret").write_text(SECRET)
    return write_config(folder, section)


def sign_in(config: Path, *more: str, forged: str = "") -> "subprocess.CompletedProcess[str]":
    """Run `upstreams login` with a browser that follows the URL, after it was sent back with a `forged` query."""
    words = ("upstreams", "login", "far", "--no-browser", "--config", str(config), *more)
    process = Forked(words, stdout=PIPE, stderr=PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        said = process.stderr.readline()
        if "sign in here: " in said:
            address = said.partition("sign in here: ")[2].strip()
            if forged:
                [back] = parse_qs(urlsplit(address).query)["redirect_uri"]
                assert httpx.get(f"{back}?{forged}", trust_env=False, verify=NO_TLS).status_code == 400
            httpx.get(address, trust_env=False, verify=NO_TLS, follow_redirects=True)
        output, said = process.stdout.read(), said + process.stderr.read()
    return subprocess.CompletedProcess(words, process.wait(20), output, said)


def test_guard_obtains_its_own_token_from_the_announced_server(tmp_path: Path) -> None:
    with (
        Authority(tmp_path, secret=SECRET) as authority,
        Client(configure(tmp_path, authority.section(PLACE, more='scope = "a b"'))) as client,
    ):
        client.start()
        assert text(client.call("far__echo")) == "done"
        [asked] = authority.asked("token")
        assert (asked["grant_type"], asked["client"], asked["scope"]) == ("client_credentials", "guard & co", "a b")
        assert asked["resource"] == f"{authority.url}/mcp"


def test_where_an_upstream_has_moved_is_said(tmp_path: Path) -> None:
    with Authority(tmp_path, issuer="https://moved.example") as authority:
        section = authority.section("", "authorization_code", f'issuer = "{authority.url}"')
        words = ("upstreams", "login", "far", "--no-browser", "--config", str(write_config(tmp_path, section)))
        said = cli(*words, check=False).stderr
    assert f"names the authorization server `https://moved.example`, and not `{authority.url}`" in said
    assert "set oauth.issuer to it if you trust it" in said


def test_token_is_renewed_before_it_expires(tmp_path: Path) -> None:
    with (
        Authority(tmp_path, secret=SECRET, lasts=0.4) as authority,
        Client(configure(tmp_path, authority.section(PLACE))) as client,
    ):
        client.start()
        for _ in range(12):
            assert text(client.call("far__echo")) == "done"
            threading.Event().wait(0.1)
        assert len(authority.asked("token")) >= 3
        assert len(authority.asked("call")) == 12


def test_a_refused_token_is_renewed_once_and_the_call_runs_once(tmp_path: Path) -> None:
    with (
        Authority(tmp_path, secret=SECRET) as authority,
        Client(configure(tmp_path, authority.section(PLACE))) as client,
    ):
        client.start()
        client.tools()
        authority.drop()
        assert text(client.call("far__echo")) == "done"
        assert len(authority.asked("token")) == 2
        assert len(authority.asked("call")) == 1
        authority.behave(down=True)
        authority.drop()
        refused = client.call("far__echo")
        assert "401" in text(refused)
        assert "The call was not sent" in text(refused)
        assert len(authority.asked("call")) == 1


def test_a_call_that_may_have_run_is_never_sent_again(tmp_path: Path) -> None:
    with (
        Authority(tmp_path, secret=SECRET) as authority,
        Client(config := configure(tmp_path, authority.section(PLACE))) as client,
    ):
        client.start()
        assert "may have taken effect" in text(client.call("far__status"))
        assert "404" in client.call("far__redirect")["error"]["message"]  # what the address within the origin says
        assert "403" in client.call("far__error")["error"]["message"]
        assert "may have taken effect" in text(client.call("far__html"))
        assert [item["tool"] for item in authority.asked("call")] == ["status", "redirect", "error", "html"]
        assert len(authority.asked("token")) == 1
    endings = [receipt["ending"] for receipt in log(config, "--kind", "outcome")]
    assert endings == ["unknown", "upstream_error", "upstream_error", "upstream_error"]


def test_sign_in_by_a_user_continues_with_rotating_refresh_tokens(tmp_path: Path) -> None:
    with Authority(tmp_path, lasts=0.4) as authority:
        config = configure(tmp_path, authority.section("", "authorization_code"))
        done = sign_in(config)
        assert done.returncode == 0, done.stderr
        assert "signed in to `far`" in done.stdout
        kept = tmp_path / "state" / "sign-ins" / "far.json"
        assert kept.stat().st_mode & 0o777 == 0o600
        with Client(config) as one, Client(config) as two:  # one sign-in, two guards
            one.start()
            two.start()
            one.tools()
            two.tools()
            authority.behave(slow=0.2, lasts=1)
            for _ in range(5):
                authority.drop()  # so that both notice at the same time
                sent = [item.send("tools/call", {"name": "far__echo", "arguments": {}}) for item in (one, two)]
                assert [text(each.wait(id)) for each, id in zip((one, two), sent, strict=True)] == ["done", "done"]
        refreshes = [item for item in authority.asked("token") if item["grant_type"] == "refresh_token"]
        assert len(refreshes) >= 3
        used = {refresh["refresh_token"] for refresh in refreshes}
        assert len(used) == len(refreshes), "a refresh token was used twice"
        assert json.loads(kept.read_text())["refresh"] == authority.asked("gave")[-1]["refresh"]


def test_gateways_of_a_database_share_a_sign_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two state folders, as on two machines, which have only the ledger and its key in common."""
    monkeypatch.setenv("DATABASE_URL", server().url)
    monkeypatch.setenv("SHARED_SECRET", "canary-shared-secret-of-gateways")
    ledger = '[ledger]\ndatabase = { env = "DATABASE_URL" }\nshared_secret = { env = "SHARED_SECRET" }'
    with Authority(tmp_path, lasts=0.4) as authority:
        section, configs = authority.section("", "authorization_code"), []
        for name in ("here", "there"):
            (tmp_path / name / "state").mkdir(mode=0o700, parents=True)
            config = write_config(tmp_path / name, section, guard='origin = "oauth.example/ledger"', more=ledger)
            configs.append(config)
        done = sign_in(configs[0])
        assert "the tokens are stored with the ledger" in done.stdout, done.stderr
        with Client(configs[0]) as here:
            here.start()
            here.tools()
            shutil.copy(tmp_path / "here" / "state" / "ledger.key", tmp_path / "there" / "state")
            with Client(configs[1]) as there:
                there.start()
                there.tools()
                authority.behave(slow=0.2, lasts=1)
                for _ in range(2):
                    authority.drop()  # so that both notice at the same time
                    sent = [item.send("tools/call", {"name": "far__echo", "arguments": {}}) for item in (here, there)]
                    assert [text(each.wait(id)) for each, id in zip((here, there), sent, strict=True)] == ["done"] * 2
        refreshes = [item for item in authority.asked("token") if item["grant_type"] == "refresh_token"]
        assert len(refreshes) >= 2
        used = {refresh["refresh_token"] for refresh in refreshes}
        assert len(used) == len(refreshes), "a refresh token was used twice"
    assert not list(tmp_path.glob("*/state/sign-ins"))


def test_upstream_without_sign_in_is_down_and_says_what_to_do(tmp_path: Path) -> None:
    with Authority(tmp_path) as authority:
        config = configure(tmp_path, authority.section("", "authorization_code"))
        with Client(config) as client:
            client.start()
            assert client.tools() == {}
        assert "nobody has signed in; mcp-guard upstreams login far" in client.stderr
        assert cli("upstreams", "logout", "far", "--config", str(config), check=False).returncode == 1
        assert sign_in(config).returncode == 0
        assert cli("upstreams", "logout", "far", "--config", str(config)).stdout.startswith("signed out of `far`")
        assert not (tmp_path / "state" / "sign-ins" / "far.json").exists()


def test_requests_are_not_sent_to_a_host_named_by_the_upstream(tmp_path: Path) -> None:
    with Authority(tmp_path) as authority:
        section = f'[upstreams.far]\nurl = "{authority.url}/old"\ntransport = "sse"\nbearer = {PLACE}\n'
        with Client(configure(tmp_path, section)) as client:
            client.start()
            assert client.tools() == {}
        assert "asked for its requests to be sent to another host" in client.stderr


def test_metadata_is_read_from_the_url_in_the_challenge(tmp_path: Path) -> None:
    with Authority(tmp_path, secret=SECRET, pointed=True) as authority:
        authority.behave(metadata={"issuer": authority.url})
        with Client(configure(tmp_path, authority.section(PLACE))) as client:
            client.start()
            assert text(client.call("far__echo")) == "done"


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"issuer": "https://evil.example"}, "names another issuer"),
        ({"token_endpoint": "http://tokens.example/"}, "neither https nor on this machine"),
        ({"token_endpoint": None}, "names no token endpoint"),
    ],
)
def test_untrusted_metadata_receives_no_secret(tmp_path: Path, metadata: object, why: str) -> None:
    with Authority(tmp_path, secret=SECRET, metadata=metadata) as authority:
        with Client(configure(tmp_path, authority.section(PLACE))) as client:
            client.start()
            assert client.tools() == {}
        assert why in client.stderr
        assert authority.asked("token") == []


def test_sign_in_stored_in_the_keyring_is_refreshed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "tests.ledger.file_keyring.FileKeyring")
    monkeypatch.setenv("TEST_KEYRING", str(tmp_path / "keyring.json"))
    body = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    with Authority(tmp_path, secret=SECRET, metadata=body) as authority:
        config = configure(tmp_path, authority.section(PLACE, "authorization_code", 'keep = "keyring"'))
        assert "stored in the keyring" in sign_in(config).stdout
        assert not (tmp_path / "state" / "sign-ins" / "far.json").exists()
        with Client(config) as client:
            client.start()
            client.tools()
            authority.drop()
            assert text(client.call("far__echo")) == "done"
        asked = authority.asked("token")
        assert [item["grant_type"] for item in asked] == ["authorization_code", "refresh_token"]
        assert all(item["client_secret"] == SECRET for item in asked)
        assert authority.asked("gave")[-1]["refresh"] in (tmp_path / "keyring.json").read_text()


@pytest.mark.parametrize("ending", ["close", "cancel and close", "signal", "cancel and signal"])
@pytest.mark.parametrize("is_due", [True, False])
def test_client_leaving_during_a_refresh_does_not_lose_the_sign_in(tmp_path: Path, is_due: bool, ending: str) -> None:
    """The refresh comes before the call is sent if the token is due, else after the upstream has refused it."""
    kept = tmp_path / "state" / "sign-ins" / "far.json"
    with Authority(tmp_path, lasts=0.4 if is_due else 3600) as authority:
        config = configure(tmp_path, authority.section("", "authorization_code"))
        sign_in(config)
        with Client(config) as client:
            client.start()
            client.tools()
            if is_due:
                eventually(lambda: json.loads(kept.read_text())["renew_at"] < time.time())
            authority.drop()
            authority.behave(slow=1, lasts=3600)
            earlier = len(authority.asked("token"))
            call = client.send("tools/call", {"name": "far__echo", "arguments": {}})
            eventually(lambda: len(authority.asked("token")) == earlier + 1)
            if "cancel" in ending:
                client.notify("notifications/cancelled", {"requestId": call})
            if "signal" in ending:
                client.process.send_signal(signal.SIGTERM)
            else:
                assert client.process.stdin is not None
                client.process.stdin.close()
            assert client.process.wait(20) == 0
        assert "Traceback" not in client.stderr
        assert json.loads(kept.read_text())["refresh"] == authority.asked("gave")[-1]["refresh"]
        assert len(authority.asked("gave")) == earlier + 1
        assert authority.asked("call") == []


def test_redirect_from_another_issuer_is_refused(tmp_path: Path) -> None:
    with Authority(tmp_path, back={"iss": "https://evil.example"}) as authority:
        done = sign_in(configure(tmp_path, authority.section("", "authorization_code")))
        assert done.returncode == 6
        assert "another issuer" in done.stderr
        assert authority.asked("token") == []


def test_redirect_with_a_foreign_state_is_refused_and_the_sign_in_goes_on(tmp_path: Path) -> None:
    with Authority(tmp_path) as authority:
        config = configure(tmp_path, authority.section("", "authorization_code"))
        assert sign_in(config, forged="state=another&code=x").returncode == 0
        assert len(authority.asked("token")) == 1


def test_client_secret_is_not_sent_to_a_server_named_only_by_the_upstream(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with Authority(other) as stranger, Authority(tmp_path, issuer=stranger.url, secret=SECRET) as authority:
        with Client(configure(tmp_path, authority.section(PLACE))) as client:
            client.start()
            assert client.tools() == {}
        assert "which is not trusted with the client secret" in client.stderr
        assert stranger.asked("token") == authority.asked("token") == []


def test_guard_registers_itself_where_no_client_is_configured(tmp_path: Path) -> None:
    with Authority(tmp_path, lasts=0.4) as authority:
        config = configure(tmp_path, authority.section("", "authorization_code", client_id=""))
        assert "registers no clients automatically; register the guard with the redirect" in sign_in(config).stderr
        authority.behave(metadata={"registration_endpoint": f"{authority.url}/register"}, registers=False)
        refused = sign_in(config).stderr
        assert "does not register the guard (HTTP status 400)" in refused
        assert "canary" not in refused
        authority.behave(registers=True, lasts=3600, registered={"token_endpoint_auth_method": None})
        assert sign_in(config).returncode == 0
        registered = authority.asked("registered")[-1]
        assert (registered["application_type"], registered["client_name"]) == ("native", "mcp-guard")
        with Client(config) as client:
            client.start()
            client.tools()
            authority.drop()
            assert text(client.call("far__echo")) == "done"
        assert [item["client"] for item in authority.asked("token")] == [registered["client_id"]] * 2


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ('token_url = "http://login.example.com/t"', "must use https, because secrets are sent to it"),
        (
            'grant = "authorization_code"\ntoken_url = "https://x.example/t"',
            "set both `token_url` and `authorization_url`",
        ),
        ("", "requires `client_secret`"),
        ('as = "user"', "requires `grant`"),
        ('grant = "token_exchange"', 'requires `as = "user"`'),
        ('as = "user"\ngrant = "token_exchange"', "requires `issuer` or `token_url`"),
        ('as = "user"\ngrant = "id_jag"', "require each other"),
        ('as = "user"\ngrant = "authorization_code"\nkeep = "keyring"', "those of users are sealed"),
        ('registration = "dynamic"\ngrant = "authorization_code"', "leave out `client_id`"),
    ],
)
def test_invalid_oauth_section_is_refused(tmp_path: Path, more: str, why: str) -> None:
    section = f'[upstreams.far]\nurl = "https://x.example"\n[upstreams.far.oauth]\nclient_id = "x"\n{more}\n'
    if "must use https" in why:
        section += 'client_secret = { env = "X" }\n'
    refused = cli("policy", "validate", "--config", str(write_config(tmp_path, section)), check=False)
    assert refused.returncode == 3
    assert why in refused.stderr
