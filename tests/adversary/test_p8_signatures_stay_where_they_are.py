"""P8: whoever holds the guard's key cannot hang an approver's signature under anything but what the approver saw."""

import base64
import hashlib
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.cli.init_templates import InitAnswers, config_text
from mcp_guard.core.approval import GrantTerms, Route, RouteRule, rules_as_json
from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import Decision, Json, Outcome, Task, ToolCallRequest
from mcp_guard.core.receipt import Draft, intent_draft
from mcp_guard.ledger.approvals import approver_keys, transitions
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.export import export
from mcp_guard.ledger.writer import Transaction
from mcp_guard.storage.engines import open_store
from mcp_guard.storage.items import Item
from mcp_guard.verifier.cli import main
from mcp_guard.web.passkeys import Passkeys, evidence
from mcp_guard.web.sessions import BrowserSession, Person
from tests.promises.harness import ALLOW, HOLD, KEYS, SECOND, Harness, make_instance, open_harness, pending_id
from tests.verifier.resign import sign_anew
from tests.web.software_passkey import SoftwarePasskey

ORIGIN = "test.example/ledger"
VERIFY_MJS = Path(__file__).parent.parent / "independent" / "verify.mjs"
ANSWERS = InitAnswers("agent", "bob", "Alice")
NAMES = ("request", "facts", "material", "response", "subject")
ADDED = ("v", "kind", "seq", "time", "origin", "software")
"""Members that the writer adds to each receipt."""
Change = Callable[[Json], None]


def verify(state: Path, *more: str) -> int:
    given = ("--key", str(state / "ledger.pub"), "--approvers", str(state.parent / "approvers.json"))
    return main([str(state / "ledger.sqlite"), *given, *more])


def trust(harness: Harness) -> None:
    keys = [
        {name: getattr(key, name) for name in ("approver", "method", "public", "details")} | {"key": key.id}
        for key in harness.store.approver_keys()
    ]
    (harness.folder / "approvers.json").write_text(json.dumps(keys))


async def ask(harness: Harness, text: str = "hello") -> str:
    return pending_id(await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": text})))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with an approved call, and a grant of which one use is recorded."""
    folder = tmp_path_factory.mktemp("signed")
    harness = open_harness(folder, f"{ALLOW}\n{HOLD}")
    id = await ask(harness)
    harness.approve(id, rationale="a harmless note")
    await ask_again(harness, "hello")
    id = pending_id(await update(harness, 150))
    harness.approve(id, terms=GrantTerms(2, 600, ("amount",)))
    await update(harness, 150)
    await update(harness, 151)
    trust(harness)
    harness.close()
    assert verify(folder / "state") == 0
    return folder


async def ask_again(harness: Harness, text: str) -> None:
    await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": text}))


async def update(harness: Harness, amount: int) -> Json:
    request = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": amount, "guard_reason": "typo"})
    return await harness.guard.call(make_instance(), request)


@pytest.fixture
def state(ledger: Path, tmp_path: Path) -> Path:
    shutil.copytree(ledger, tmp_path / "copy")
    return tmp_path / "copy" / "state"


def is_forged(receipt: Json, kinds: tuple[str, ...], tool: str) -> bool:
    return receipt["kind"] in kinds and receipt.get("tool") == tool and receipt.get("purpose") is None


FORGED: dict[str, object] = {
    "tool": "crm__purge", "instance": "run_evil", "agent": "evil", "owner": "mallory", "on_behalf_of": "mallory",
    "user_issuer": "https://evil.example", "resource": {"type": "Deal", "id": "2"}, "ticket": "INC-666",
    "reason": "because I say so", "verb": "purged", "definition": "sha256:0", "upstream": "erp",
    "claimed": ["ticket"], "policy_version": None,
}  # fmt: skip
APPROVAL_KINDS = ("approval.requested", "approval.granted", "approval.consumed", "intent", "decision")


@pytest.mark.parametrize("kinds", [("intent",), APPROVAL_KINDS], ids=["intent alone", "every receipt"])
@pytest.mark.parametrize("name", FORGED)
def test_no_member_of_what_was_signed_can_be_changed(state: Path, name: str, kinds: tuple[str, ...]) -> None:
    def change(receipt: Json) -> None:
        if is_forged(receipt, kinds, "crm__note"):
            receipt[name] = FORGED[name]
            if FORGED[name] is None:
                del receipt[name]

    sign_anew(state, ORIGIN, change)
    assert verify(state) != 0


@pytest.mark.parametrize("name", FORGED)
def test_no_use_of_a_grant_can_leave_its_signed_terms(state: Path, name: str) -> None:
    def change(receipt: Json) -> None:
        if receipt["kind"] == "intent" and "grant" in receipt.get("approval", {}):
            receipt[name] = FORGED[name]
            if FORGED[name] is None:
                del receipt[name]

    sign_anew(state, ORIGIN, change)
    assert verify(state) != 0


def replace_request(state: Path, seq: int, request: bytes) -> str:
    """Store another request for a receipt; returns its commitment."""
    salt = bytes(16)
    with closing(sqlite3.connect(state / "ledger.sqlite")) as db:
        db.execute("UPDATE payload SET request = ? WHERE seq = ?", (salt + request, seq))
        db.commit()
    return "sha256:" + hashlib.sha256(salt + request).hexdigest()


def receipts(state: Path, kind: str, tool: str) -> list[Json]:
    with closing(sqlite3.connect(state / "ledger.sqlite")) as db:
        rows = [json.loads(body) for (body,) in db.execute("SELECT body FROM receipt ORDER BY seq")]
    return [receipt for receipt in rows if receipt["kind"] == kind and receipt.get("tool") == tool]


@pytest.mark.parametrize(
    ("tool", "number", "request_text"),
    [
        ("crm__note", 0, b'{"arguments":{"text":"other"},"name":"note"}'),
        ("crm__update_deal", 1, b'{"arguments":{"amount":151,"deal_id":"1","stage":"won"},"name":"update_deal"}'),
        ("crm__update_deal", 1, b'{"_meta":{"x":1},"arguments":{"amount":151,"deal_id":"1"},"name":"update_deal"}'),
        ("crm__update_deal", 1, b'{"arguments":{"amount":151,"deal_id":"1"},"name":"purge"}'),
    ],
)
def test_the_exact_request_cannot_be_replaced(state: Path, tool: str, number: int, request_text: bytes) -> None:
    seq = receipts(state, "intent", tool)[number]["seq"]
    commitment = replace_request(state, seq, request_text)

    def change(receipt: Json) -> None:
        if receipt["seq"] == seq:
            receipt["request"] = commitment

    sign_anew(state, ORIGIN, change)
    assert verify(state) != 0


@pytest.mark.parametrize("kinds", [("intent",), ("intent", "approval.consumed")])
def test_nobody_can_be_named_who_has_not_voted(state: Path, kinds: tuple[str, ...]) -> None:
    for carol in ({"approver": "carol", "name": "Carol"}, {"name": "Carol, Chief"}, {"rationale": "run everything"}):

        def change(receipt: Json, carol: dict[str, str] = carol) -> None:
            if is_forged(receipt, kinds, "crm__note"):
                holder = receipt["approval"] if receipt["kind"] == "intent" else receipt
                holder["approvers"] = [holder["approvers"][0] | carol]

        sign_anew(state, ORIGIN, change)
        assert verify(state) != 0


@pytest.mark.parametrize(
    "text", ["{}… [cut from 9 bytes], and everything else", "{}… [cut from ", "… [cut from 14 characters]"]
)
def test_the_mark_of_a_cut_rationale_adds_no_words(state: Path, tmp_path: Path, text: str) -> None:
    def change(receipt: Json) -> None:
        if is_forged(receipt, ("intent", "approval.consumed"), "crm__note"):
            holder = receipt["approval"] if receipt["kind"] == "intent" else receipt
            holder["approvers"][0]["rationale"] = text.format("a harmless note")

    sign_anew(state, ORIGIN, change)
    assert verify(state) != 0
    assert not independently(export_of(state, tmp_path / "export"), state)["ok"]


async def test_a_long_rationale_is_cut_and_verified(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    harness.approve(await ask(harness), rationale="reviewed … [cut from the wiki] 😀 " * 60)
    await ask_again(harness, "hello")
    trust(harness)
    [used] = [receipt["approval"] for receipt in harness.receipts("intent") if "approval" in receipt]
    assert "characters, sha256:" in used["approvers"][0]["rationale"]
    harness.close()
    assert verify(tmp_path / "state") == 0
    assert independently(export_of(tmp_path / "state", tmp_path / "export"), tmp_path / "state")["ok"]


@pytest.mark.parametrize(
    "rules",
    [
        [{"route": "people", "quorum": 0, "approvers": ["alice"]}],
        [{"route": "people", "quorum": 1, "approvers": ["alice", "dana"]}],
        [],
    ],
    ids=str,
)
def test_the_rules_that_were_signed_cannot_be_relaxed(state: Path, rules: list[Json]) -> None:
    def change(receipt: Json) -> None:
        if receipt["kind"] in ("approval.requested", "approval.granted"):
            receipt["rules"] = rules

    sign_anew(state, ORIGIN, change)
    assert verify(state) != 0


@pytest.mark.parametrize(
    ("approvers", "quorum"),
    [(("alice", "eve"), 2), (("alice", "eve", "carol"), 3)],
    ids=["other approvers", "a smaller quorum"],
)
async def test_an_escalation_relaxes_nothing_that_was_signed(
    tmp_path: Path, approvers: tuple[str, ...], quorum: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alice signs who must agree beside her; afterwards Carol is enough."""
    rule = RouteRule("people", ("alice", "carol"), 2)
    route = Route("people", approvers, 3600 * SECOND, quorum=quorum)
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes={"people": route})
    id = await ask(harness)
    harness.approve(id)

    def relax(tx: Transaction) -> None:
        approval, receipts = transitions.find_approval(tx, id)
        relaxed = replace(approval, rules=(rule,))
        fields = {"follows": [receipts[-1]], "rules": rules_as_json(relaxed), "escalated_to": ["people"]}
        seq = tx.add(Draft("approval.escalated", transitions.receipt_fields(approval) | fields))
        tx.store.move_approval(relaxed, approval.state, "", [*receipts, seq])

    harness.ledger.writer.run(relax)
    harness.approve(id, "carol")
    await ask_again(harness, "hello")
    assert harness.upstream.writes()
    trust(harness)
    harness.close()
    assert verify(tmp_path / "state") != 0
    assert "escalated by more than adding approvers" in capsys.readouterr().out
    assert not independently(export_of(tmp_path / "state", tmp_path / "export"), tmp_path / "state")["ok"]


async def test_a_voucher_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that was removed cannot be enrolled again with the signature that vouched for it."""
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    harness.approve(await ask(harness))
    writer, alice = harness.ledger.writer, Approver("alice", "Alice")
    [old] = harness.store.approver_keys()
    new = NewKey("ed25519", Ed25519PrivateKey.generate().public_key().public_bytes_raw(), {})
    signature = KEYS["alice"].sign(approver_keys.voucher(writer.key.origin, "alice", new))
    vouched = {"signature": base64.b64encode(signature).decode()}
    await approver_keys.enrol_with_key(writer, alice, new, old.id, vouched, ())
    approver_keys.remove(writer, "alice", new.id, "stolen")
    trust(harness)
    enrolled = harness.receipts("approver.enrolled")[-1]
    fields = {name: value for name, value in enrolled.items() if name not in ADDED}
    writer.run(lambda tx: tx.add(Draft("approver.enrolled", fields)))
    harness.close()
    assert verify(tmp_path / "state") != 0
    assert "is enrolled twice" in capsys.readouterr().out
    assert not independently(export_of(tmp_path / "state", tmp_path / "export"), tmp_path / "state")["ok"]


async def test_what_a_passkey_signed_on_another_page_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any port of `localhost` can ask for a signature, and whoever holds the guard's key can write which one counts."""
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    passkey = SoftwarePasskey("http://localhost:3000")
    inbox, writer = Passkeys("http://localhost:8765"), harness.ledger.writer
    item = Item("session", "", "", b"", 0)
    session = BrowserSession(Person("alice"), "id", 0, 0, 0, 0, None, False, item)
    registered = SoftwarePasskey(inbox.origin, passkey.id, passkey.key).register(
        inbox.registration(session, "Alice", [], 0)
    )
    new = inbox.register(registered, session, 0)
    details = new.details | {"origin": passkey.origin}
    approver_keys.enrol(writer, Approver("alice", "Alice"), replace(new, details=details))
    votes = Votes(writer, harness.ledger.approvals.routes, {"alice": "Alice"})
    statement = votes.prepare(await ask(harness), "alice", "approve", "because")
    challenge = hashlib.sha256(statement.text()).digest()
    signature = passkey.sign({"challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode()})
    votes.record(statement, new.id, evidence(signature))
    await ask_again(harness, "hello")
    trust(harness)
    harness.close()
    state = tmp_path / "state"
    assert verify(state) == 0
    [known] = json.loads((tmp_path / "approvers.json").read_text())
    (tmp_path / "approvers.json").write_text(json.dumps([known | {"details": new.details}]))
    capsys.readouterr()
    assert verify(state) != 0
    assert "is not among the approvers' keys given" in capsys.readouterr().out
    assert not independently(export_of(state, tmp_path / "export"), state)["ok"]


def test_a_signature_is_worthless_in_another_ledger() -> None:
    """Each ledger that `init` makes has a name of its own, which every statement contains."""
    origins = {line for _ in range(3) for line in config_text(ANSWERS).splitlines() if line.startswith("origin")}
    assert len(origins) == 3


async def test_a_signed_vote_cannot_be_replayed_for_a_second_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same approval again: the same request, signed within the same hour."""
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    id = await ask(harness)
    harness.approve(id)
    await ask_again(harness, "hello")
    trust(harness)
    assert verify(tmp_path / "state") == 0
    again = {receipt["kind"]: receipt for receipt in harness.receipts()}
    kinds = ("decision", "approval.requested", "approval.granted", "approval.consumed", "intent")
    rows = [again[kind] for kind in kinds]
    payloads = {row["kind"]: harness.store.payloads(row["seq"]) for row in rows}
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite")) as db:
        query = "SELECT * FROM payload WHERE seq = ?"
        cells = {row["kind"]: db.execute(query, (row["seq"],)).fetchone() for row in rows}

    def op(tx: Transaction) -> None:
        last: list[int] = []
        for row in rows:
            names = [name for name in NAMES if name in row]
            fields = {name: value for name, value in row.items() if name not in (*ADDED, *NAMES)} | {"follows": last}
            salts = {name: cells[row["kind"]][1 + NAMES.index(name)][:16] for name in names}
            kept = {name: payloads[row["kind"]][name] or b"" for name in names}
            last = [tx.add(Draft(row["kind"], fields, kept, salts))]

    harness.ledger.writer.run(op)
    harness.close()
    assert verify(tmp_path / "state") != 0
    assert "is requested twice" in capsys.readouterr().out


@pytest.mark.parametrize("later", [0, 2 * 86400], ids=["in time", "expired"])
async def test_another_call_cannot_consume_an_approval(tmp_path: Path, later: int) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    id = await ask(harness)
    harness.approve(id)
    trust(harness)
    held = harness.store.approval(id)[0]
    harness.clock.time += later * SECOND
    evil = replace(make_instance("run_evil"), on_behalf_of="mallory", task=Task("INC-666"))
    tool = harness.upstream.catalog["crm__purge"]
    call = describe(DescriptionRules(), "call_x", evil, ToolCallRequest("crm__purge", {"all": True}), tool)
    decision = Decision(Outcome.REQUIRE_APPROVAL, harness.policies.version, policies=("gate",), routes=("people",))
    harness.ledger.writer.run(lambda tx: tx.add(intent_draft(call, decision, transitions.consume(tx, held))))
    harness.close()
    assert verify(tmp_path / "state") != 0


def test_receipts_cannot_be_dated_back(state: Path) -> None:
    """Otherwise an approval that has expired could be consumed as of an earlier time."""
    last = max(receipt["seq"] for receipt in receipts(state, "outcome", "crm__update_deal"))

    def change(receipt: Json) -> None:
        if receipt["seq"] == last:
            receipt["time"] = "2026-01-31T00:00:00.000000Z"

    sign_anew(state, ORIGIN, change)
    assert verify(state) != 0


@pytest.mark.parametrize(
    "changes",
    [
        {"approval": {"id": "ap_x", "approvers": [{"approver": "alice", "name": "Alice"}]}},
        {"outcome": "allow"},
        {"purpose": "facts"},
        {"outcome": None, "purpose": "facts"},
        {"outcome": None},
    ],
    ids=str,
)
async def test_an_intent_cannot_claim_an_approval_that_nothing_required(tmp_path: Path, changes: Json) -> None:
    harness = open_harness(tmp_path, ALLOW if "approval" in changes else f"{ALLOW}\n{HOLD}")
    if "approval" in changes:
        await ask_again(harness, "hello")
    else:
        harness.approve(await ask(harness))
        await ask_again(harness, "hello")
    trust(harness)
    harness.close()

    def change(receipt: Json) -> None:
        if receipt["kind"] == "intent":
            receipt.update(changes)
            for name in [name for name, value in changes.items() if value is None]:
                del receipt[name]

    assert verify(tmp_path / "state") == 0
    sign_anew(tmp_path / "state", ORIGIN, change)
    assert verify(tmp_path / "state") != 0


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_part_of_the_ledger_is_checked_as_far_as_it_goes(state: Path, first: int) -> None:
    kinds = ["approval.requested", "approval.granted", "approval.consumed"]
    begin = str(receipts(state, kinds[first], "crm__note")[0]["seq"])
    end = str(receipts(state, "intent", "crm__note")[0]["seq"])
    assert verify(state, "--from", begin, "--to", end) == 0

    def change(receipt: Json) -> None:
        if is_forged(receipt, ("intent",) if first == 0 else ("approval.granted",), "crm__note"):
            receipt["ticket"] = "INC-666"

    sign_anew(state, ORIGIN, change)
    assert verify(state, "--from", begin, "--to", end) == (0 if first == 2 else 1)


@pytest.mark.parametrize("tool", ["crm__note", "crm__update_deal"], ids=["approval", "grant"])
def test_an_intent_in_a_part_follows_what_it_consumed(
    state: Path, tool: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Although the approval may have begun before the part, what its last receipt says is within it."""
    seq = receipts(state, "intent", tool)[-1]["seq"]
    part = ("--from", str(seq - 1), "--to", str(seq))
    assert verify(state, *part) == 0

    def change(receipt: Json) -> None:
        if receipt["seq"] == seq:
            carol = {"approver": "carol", "name": "Carol", "rationale": "run everything"}
            other = {"grant": "gr_other"} if "grant" in receipt["approval"] else {"id": "ap_other"}
            receipt["approval"] |= {"approvers": [carol]} | other

    sign_anew(state, ORIGIN, change)
    assert verify(state, *part) != 0
    assert "was not consumed for it" in capsys.readouterr().out


def export_of(state: Path, folder: Path) -> Path:
    store = open_store(state / "ledger.sqlite", create=False)
    export(store, (state / "ledger.pub").read_text(), folder, payloads=True)
    store.close()
    return folder


def independently(folder: Path, state: Path) -> Json:
    """The report of the second verifier, in another language."""
    approvers = state.parent / "approvers.json"
    command = ["node", str(VERIFY_MJS), str(folder), str(state / "ledger.pub"), str(approvers)]
    report: Json = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout)
    return report


FORGERIES: dict[str, tuple[tuple[str, ...], Json]] = {
    "nothing": ((), {}),
    "ticket": (("intent",), {"ticket": "INC-666"}),
    "tool": (APPROVAL_KINDS, {"tool": "crm__purge"}),
    "request": (("intent",), {"request": "sha256:" + "0" * 64}),
    "rules": (("approval.requested", "approval.granted"), {"rules": []}),
    "late": (("approval.consumed",), {"time": "2030-01-31T00:00:00.000000Z"}),
    "signature": (("approval.granted",), {"signature": {"signature": base64.b64encode(bytes(64)).decode()}}),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_exports_and_the_independent_verifier_agree(state: Path, tmp_path: Path, name: str) -> None:
    kinds, changes = FORGERIES[name]

    def change(receipt: Json) -> None:
        if is_forged(receipt, kinds, "crm__note"):
            receipt.update(changes)

    sign_anew(state, ORIGIN, change)
    folder = export_of(state, tmp_path / "export")
    report = independently(folder, state)
    assert report["ok"] == (name == "nothing"), report
    given = ("--key", str(state / "ledger.pub"), "--approvers", str(state.parent / "approvers.json"))
    assert (main([str(folder), *given]) == 0) == (name == "nothing")
