"""P4: whoever has an approver's session, or a code of theirs, does not become the approver.

Once they have a key, another one needs that key or the operator, and everybody concerned is told.
"""

import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.live.running_guard import Client, cli, enrol, log, scripted, seen, write_config
from tests.web.inbox_client import InboxClient
from tests.web.inbox_process import free_port, inbox
from tests.web.software_passkey import SoftwarePasskey

HOLD = """
@id("all") permit (principal, action, resource);
@id("hold") @require_approval("people") forbid (principal, action == Action::"up__free", resource);
"""


@dataclass(frozen=True)
class Scenario:
    config: Path
    url: str
    told: list[Any]

    def code(self, *options: str, approver: str = "alice") -> str:
        done = cli("approvers", "code", approver, "--json", "--config", str(self.config), *options)
        return str(json.loads(done.stdout)["code"])

    def sign_in(self, *options: str, approver: str = "alice") -> InboxClient:
        return InboxClient(self.url).sign_in(self.code(*options, approver=approver))

    def keys(self) -> list[tuple[str, str]]:
        """Who enrolled a key, and by whose authority."""
        enrolled = log(self.config, "--kind", "approver.enrolled")
        return [(receipt["approver"], receipt["authorized_by"]) for receipt in enrolled]

    def verify(self) -> None:
        cli("verify", "--config", str(self.config))


@contextmanager
def webhook() -> Iterator[tuple[str, list[Any]]]:
    """Where the two notifiers post, and what they posted."""
    posted: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", posted
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Scenario]:
    with webhook() as (address, posted):
        more = f"[inbox]\nport = {free_port()}\n"
        (tmp_path / "secret").write_text("whsec_c2VjcmV0c2VjcmV0c2VjcmV0")
        (tmp_path / "secret").chmod(0o600)
        for name in ("team", "security"):  # neither is on a route
            more += f'[notifiers.{name}]\nkind = "webhook"\nurl = "{address}/{name}"\nsecret = {{ file = "secret" }}\n'
        config = write_config(tmp_path, scripted("up", tmp_path), HOLD, more, "hold_seconds = 0")
        with inbox(config) as url:
            yield Scenario(config, url, posted)


def test_session_of_an_approver_with_a_key_enrols_nothing_and_approves_nothing(on: Scenario, tmp_path: Path) -> None:
    """Neither the session that enrolled the first key, nor a new one by code, nor one whose token was stolen."""
    alice, hers, mine = on.sign_in(), SoftwarePasskey(on.url), SoftwarePasskey(on.url)
    assert alice.enrol(hers) == (200, {"go": "/keys"})
    with Client(on.config) as client:
        client.start()
        held = client.call("up__free", {"to": "attacker"})["result"]["_meta"]["mcp-guard/decision"]["approval"]
        for session in (alice, on.sign_in()):
            status, answer = session.enrol(mine)
            assert (status, answer["problem"]) == (403, "confirm the new passkey with one that you have")
            vouching = session.post("/passkeys/vouch", mine.sign(answer["vouch"]))
            assert (vouching[0], vouching[1]["problem"]) == (409, "this passkey is not enrolled here")
            status, options = session.post(f"/requests/{held}/options", {"verdict": "approve", "rationale": "fine"})
            assert session.post(f"/requests/{held}/decide", mine.sign(options))[0] == 409
        client.call("guard__await", {"approval": held})
    assert seen(tmp_path, "up") == []
    assert on.keys() == [("alice", "sign_in_code")]
    on.verify()


def test_key_in_use_vouches_for_exactly_one_new_key(on: Scenario) -> None:
    """Its signature names the new key, counts once, and is no signature for anything else."""
    alice, hers, second, mine = on.sign_in(), *(SoftwarePasskey(on.url) for _ in range(3))
    assert alice.enrol(hers)[0] == 200
    signature = hers.sign(alice.enrol(second)[1]["vouch"])
    alice.enrol(mine)  # the attacker's, in between
    assert alice.post("/passkeys/vouch", signature) == (200, {"go": "/keys"})
    assert alice.post("/passkeys/vouch", signature)[0] == 409
    assert (
        InboxClient(on.url).post("/sign-in/passkey", second.sign(InboxClient(on.url).post("/sign-in/options")[1]))[0]
        == 200
    )
    assert (
        InboxClient(on.url).post("/sign-in/passkey", mine.sign(InboxClient(on.url).post("/sign-in/options")[1]))[0]
        == 409
    )
    assert on.keys() == [("alice", "sign_in_code"), ("alice", "key")]
    on.verify()


def test_signature_for_one_purpose_serves_no_other(on: Scenario) -> None:
    """A signature for signing in is none for a decision, none for a new key, and the other way round."""
    alice, hers, mine = on.sign_in(), SoftwarePasskey(on.url), SoftwarePasskey(on.url)
    assert alice.enrol(hers)[0] == 200
    with Client(on.config) as client:
        client.start()
        held = client.call("up__free", {"a": 1})["result"]["_meta"]["mcp-guard/decision"]["approval"]

        def asked() -> dict[str, Any]:
            return {
                "/sign-in/passkey": alice.post("/sign-in/options")[1],
                f"/requests/{held}/decide": alice.post(
                    f"/requests/{held}/options", {"verdict": "approve", "rationale": "fine"}
                )[1],
                "/passkeys/vouch": alice.enrol(mine)[1]["vouch"],
            }

        assert len({len(options["challenge"]) for options in asked().values()}) == 2
        for purpose in asked():
            for other in asked().keys() - {purpose}:
                status, answer = alice.post(other, hers.sign(asked()[purpose]))
                assert (status, answer["problem"]) == (409, "the challenge has expired or was already answered")
        assert alice.post("/passkeys", hers.sign(asked()["/sign-in/passkey"]))[0] == 409
        assert on.keys() == [("alice", "sign_in_code")]


def test_challenges_belong_to_the_session_that_asked(on: Scenario) -> None:
    """Bob cannot have what alice signed recorded in his session, nor the other way round."""
    alice, bob, hers, his = on.sign_in(), on.sign_in(approver="bob"), SoftwarePasskey(on.url), SoftwarePasskey(on.url)
    options = alice.post("/passkeys/options")[1]
    assert bob.post("/passkeys", his.register(options))[0] == 409
    assert alice.post("/passkeys", hers.register(options))[0] == 200
    assert bob.enrol(his)[0] == 200
    vouch = bob.enrol(SoftwarePasskey(on.url))[1]["vouch"]
    assert bob.post("/passkeys/vouch", hers.sign(vouch))[0] == 409
    assert on.keys() == [("alice", "sign_in_code"), ("bob", "sign_in_code")]


def test_passkey_with_the_credential_id_of_another_is_refused(on: Scenario) -> None:
    """WebAuthn level 3, §7.1, step 26: it could be taken for the other one."""
    alice, bob, hers = on.sign_in(), on.sign_in(approver="bob"), SoftwarePasskey(on.url)
    assert alice.enrol(hers)[0] == 200
    status, answer = bob.enrol(SoftwarePasskey(on.url, hers.id))
    assert (status, answer["problem"]) == (409, "a passkey with this credential id was enrolled before")
    assert on.keys() == [("alice", "sign_in_code")]


def test_code_enrols_a_first_key_once_and_a_further_key_only_if_it_says_so(on: Scenario) -> None:
    first, other, hers = on.sign_in(), on.sign_in(), SoftwarePasskey(on.url)
    assert first.enrol(hers)[0] == 200
    for session in (first, other):  # both signed in before there was a key
        assert session.enrol(SoftwarePasskey(on.url))[0] == 403
    permitted = on.sign_in("--enrol")
    assert permitted.enrol(SoftwarePasskey(on.url))[0] == 200
    assert permitted.enrol(SoftwarePasskey(on.url))[0] == 403
    assert on.keys() == [("alice", "sign_in_code"), ("alice", "enrolment_code")]
    on.verify()


def test_key_file_counts_as_a_key(on: Scenario) -> None:
    enrol(on.config)
    status, answer = on.sign_in().enrol(SoftwarePasskey(on.url))
    assert (status, answer["problem"]) == (409, "`alice` has a key already, so a passkey needs the operator's consent")
    assert "mcp-guard approvers code alice --enrol" in answer["hint"]
    assert on.sign_in("--enrol").enrol(SoftwarePasskey(on.url))[0] == 200
    assert on.keys() == [("alice", "terminal"), ("alice", "enrolment_code")]


def test_removed_key_ends_the_sessions_of_its_owner(on: Scenario) -> None:
    """The thief's too, and the session is not needed to sign in again."""
    alice, bob, hers = on.sign_in(), on.sign_in(approver="bob"), SoftwarePasskey(on.url)
    assert alice.enrol(hers)[0] == 200
    key = log(on.config, "--kind", "approver.enrolled")[0]["key"]
    cli("approvers", "remove", "alice", key, "--why", "stolen", "--config", str(on.config))
    assert (alice.get("/?part=list")[0], bob.get("/?part=list")[0]) == (401, 200)
    assert InboxClient(on.url).post("/sign-in/passkey", hers.sign(bob.post("/sign-in/options")[1]))[0] == 409


def test_removing_a_key_names_what_it_has_approved(on: Scenario) -> None:
    """Its signatures stay valid, so whoever stole it may have approved a call that has not been made yet."""
    key_options = enrol(on.config)
    with Client(on.config) as client:
        client.start()
        held = client.call("up__free", {"to": "attacker"})["result"]["_meta"]["mcp-guard/decision"]["approval"]
        cli("approvals", "approve", held, "--rationale", "mine", *key_options)
        key = log(on.config, "--kind", "approver.enrolled")[0]["key"]
        removed = cli("approvers", "remove", "alice", key, "--why", "stolen", "--config", str(on.config)).stdout
        assert f"it has signed what can still be used: {held} (approved)" in removed
        revoking = ("approvals", "revoke", held, "--as", "bob", "--rationale", "stolen key", "--config", str(on.config))
        cli(*revoking)
        assert client.call("guard__await", {"approval": held})["result"]["isError"]


def test_enrolment_is_reported_by_every_notifier_and_in_the_inbox(on: Scenario) -> None:
    alice = on.sign_in()
    assert alice.enrol(SoftwarePasskey(on.url))[0] == 200
    enrol(on.config)  # by the operator, in a terminal
    keys = [receipt["key"] for receipt in log(on.config, "--kind", "approver.enrolled")]
    deadline = time.monotonic() + 20
    while len(on.told) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sorted((path, message["type"], message["data"]["key"]) for path, message in on.told) == sorted(
        (path, "approver.enrolled", key) for path in ("/team", "/security") for key in keys
    )
    page, listed = alice.get("/keys")[1], alice.get("/")[1]
    for key in keys:
        assert key in page
    assert listed.count("was enrolled for you on") == 2
    text = cli("approvers", "list", "--config", str(on.config)).stdout
    assert "sign_in_code" in text
    assert "terminal" in text


def test_forged_challenge_signs_nobody_in(on: Scenario) -> None:
    """Only what this process has sealed, so nothing that a rogue page had signed for another time or purpose."""
    alice, hers = on.sign_in(), SoftwarePasskey(on.url)
    assert alice.enrol(hers)[0] == 200
    options = alice.post("/sign-in/options")[1]
    for challenge in (hashlib.sha256(b"a statement").hexdigest()[:43], options["challenge"][:-2] + "AA", ""):
        status, answer = alice.post("/sign-in/passkey", hers.sign({"challenge": challenge}))
        assert (status, answer["problem"]) == (409, "the challenge has expired or was already answered")


def test_passkey_of_another_port_is_replaced_with_a_code_that_says_so(on: Scenario) -> None:
    """A passkey signs for one page. After a move of the inbox its owner is told so, and is not offered it any more."""
    old = SoftwarePasskey(on.url)
    assert on.sign_in().enrol(old)[0] == 200
    port = free_port()
    on.config.write_text(on.config.read_text().replace(on.url.rpartition(":")[2], str(port)))
    with inbox(on.config) as url:
        moved, new = SoftwarePasskey(url, old.id, old.key), SoftwarePasskey(url)
        status, refused = InboxClient(url).post(
            "/sign-in/passkey", moved.sign(InboxClient(url).post("/sign-in/options")[1])
        )
        assert (status, refused["problem"]) == (
            409,
            f"this passkey was enrolled at {on.url}, and signs nothing that counts here",
        )
        assert refused["hint"] == "enrol another one: mcp-guard approvers code alice --enrol"
        alice = Scenario(on.config, url, on.told).sign_in()
        assert "a passkey needs the operator's consent" in alice.enrol(new)[1]["problem"]
        alice = Scenario(on.config, url, on.told).sign_in("--enrol")
        assert alice.post("/passkeys/options")[1]["excludeCredentials"] == []  # the same device may make another
        assert alice.enrol(new) == (200, {"go": "/keys"})
    on.verify()
