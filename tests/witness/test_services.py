"""Witnesses that answer: a webhook, a time-stamp authority, a cosigner. The answer is checked and kept as evidence."""

import base64
import hashlib
import hmac
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.tlog import note
from mcp_guard.ledger import key_rotation
from mcp_guard.ledger.export import export
from mcp_guard.ledger.open import open_writer
from mcp_guard.ledger.witness_state import cosigned_checkpoint
from mcp_guard.settings import SecretReference, WitnessSettings
from mcp_guard.storage.engines import open_store
from mcp_guard.witness.cosignature import find_cosignature
from mcp_guard.witness.rfc3161 import with_sorted_certificates
from mcp_guard.witness.run import WitnessRun, current_head
from tests.ledger.rotation_checks import chain, checkpoint
from tests.notify.receivers import web
from tests.promises.harness import Clock
from tests.witness.rounds import ORIGIN, Witnessing
from tests.witness.witnesses import Authority, Cosigner, answering

SECRET = "whsec_" + base64.b64encode(b"a shared secret").decode()


# A webhook


def webhook(folder: Path, url: str) -> Witnessing:
    secret = SecretReference("env", "HOOK_SECRET")
    return Witnessing(folder, "webhook", {"url": f"{url}/hook", "secret": secret}, {"HOOK_SECRET": SECRET})


def test_webhook_receives_the_signed_checkpoint(tmp_path: Path) -> None:
    with web() as receiver:
        ledger = webhook(tmp_path, receiver.url)
        ledger.grow(3)
        sent = checkpoint(ledger.state)
        assert ledger.send().state == "taken"
        [posted] = receiver.posted
    document = json.loads(posted.body)
    assert document["type"] == "ledger.checkpoint"
    assert (document["data"]["origin"], document["data"]["size"], document["data"]["checkpoint"]) == (ORIGIN, 3, sent)
    signed = f"{posted.headers['webhook-id']}.{posted.headers['webhook-timestamp']}.".encode() + posted.body
    expected = base64.b64encode(hmac.digest(b"a shared secret", signed, hashlib.sha256)).decode()
    assert posted.headers["webhook-signature"] == f"v1,{expected}"
    assert ledger.witnessed()[0]["evidence"] == {"message": posted.headers["webhook-id"]}


@pytest.mark.parametrize("answer", [302, 400, 500])
def test_refusing_webhook_is_not_a_witness(tmp_path: Path, answer: int) -> None:
    with web(answer) as receiver:
        ledger = webhook(tmp_path, receiver.url)
        ledger.grow(3)
        result = ledger.send()
    assert result.state == "failed"
    assert result.text.startswith(f"the receiver answered HTTP {answer}")
    assert ledger.witnessed() == []


def test_missing_webhook_is_reported_without_its_address(tmp_path: Path) -> None:
    ledger = webhook(tmp_path, "http://127.0.0.1:1")
    ledger.grow(3)
    result = ledger.send()
    assert result.state == "failed"
    assert "127.0.0.1" not in result.text


# A time-stamp authority


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "tsa")


@pytest.fixture
def stamped(tmp_path: Path, tsa: Authority) -> Iterator[Witnessing]:
    tsa.mood = ""
    with answering(tsa.reply) as url:
        witnessing = Witnessing(tmp_path, "rfc3161", {"url": url, "roots": tsa.folder / "root.pem"}, {})
        witnessing.grow(3)
        yield witnessing


def test_time_stamp_is_stored_and_verifies_with_openssl(stamped: Witnessing, tsa: Authority, tmp_path: Path) -> None:
    assert stamped.send().state == "taken"
    [said] = stamped.witnessed()
    assert said["evidence"]["time"].endswith("Z")
    (tmp_path / "answer").write_bytes(base64.b64decode(said["evidence"]["response"]))
    (tmp_path / "text").write_text(f"{said['origin']}\n{said['size']}\n{said['root']}\n")  # from the receipt alone
    words = ("ts", "-verify", "-data", "text", "-in", "answer", "-CAfile", str(tsa.folder / "root.pem"))
    done = subprocess.run(("openssl", *words), cwd=tmp_path, capture_output=True, text=True)
    assert "Verification: OK" in done.stdout + done.stderr
    (tmp_path / "text").write_text(f"{said['origin']}\n{said['size'] + 1}\n{said['root']}\n")
    assert subprocess.run(("openssl", *words), cwd=tmp_path, capture_output=True).returncode != 0


def test_certificates_are_accepted_in_any_order(stamped: Witnessing) -> None:
    import rfc3161_client

    stamped.send()
    answer = base64.b64decode(stamped.witnessed()[0]["evidence"]["response"])
    ordered = with_sorted_certificates(answer)
    result = rfc3161_client.decode_timestamp_response(ordered).signed_data.certificates
    first, second = sorted(result)
    assert ordered.count(first + second) == 1
    leaf_last = ordered.replace(first + second, second + first)
    assert {answer, with_sorted_certificates(leaf_last)} <= {ordered, leaf_last}
    assert with_sorted_certificates(leaf_last) == ordered
    with pytest.raises(ValueError, match="InvalidSetOrdering"):
        rfc3161_client.decode_timestamp_response(leaf_last)
    for length in range(0, len(answer), 7):  # truncated anywhere: the library's error is reported
        with pytest.raises(ValueError):
            rfc3161_client.decode_timestamp_response(with_sorted_certificates(answer[:length]))


@pytest.mark.parametrize(
    ("mood", "told"),
    [
        ("down", "the authority answered HTTP 503"),
        ("refuse", "the authority refused the request"),
        ("replay", "Nonce mismatch"),
    ],
)
def test_time_stamp_of_other_data_is_refused(stamped: Witnessing, tsa: Authority, mood: str, told: str) -> None:
    stamped.send()
    tsa.mood = mood
    result = stamped.send()
    assert result.state == "failed"
    assert told in result.text
    assert len(stamped.witnessed()) == 1


def test_time_stamp_under_another_root_is_refused(stamped: Witnessing, tmp_path: Path) -> None:
    stamped.options["roots"] = Authority(tmp_path / "stranger").folder / "root.pem"
    result = stamped.send()
    assert result.state == "failed"
    assert "does not verify" in result.text


def test_unreadable_roots_are_reported(stamped: Witnessing, tmp_path: Path) -> None:
    stamped.options["roots"] = tmp_path / "nowhere.pem"
    assert "cannot read the root certificates" in stamped.send().text


# A cosigner


@pytest.fixture
def cosigner() -> Cosigner:
    return Cosigner([])


@pytest.fixture
def cosigning(tmp_path: Path, cosigner: Cosigner) -> Iterator[Witnessing]:
    with answering(cosigner.reply) as url:
        witnessing = Witnessing(tmp_path, "cosignature", {"url": f"{url}/prefix", "key": cosigner.key}, {})
        witnessing.grow(300)
        cosigner.trusts.append(witnessing.verifier)
        yield witnessing


def test_cosigner_gets_a_consistency_proof(cosigning: Witnessing, cosigner: Cosigner) -> None:
    for count in (0, 1, 255, 700):
        cosigning.grow(count) if count else None
        head, _ = note.parse(checkpoint(cosigning.state))
        assert cosigning.send().state == "taken"
        assert cosigner.seen[ORIGIN] == (head.size, head.root)
    assert [asked.partition("\n")[0] for asked in cosigner.asked] == ["old 0", "old 300", "old 302", "old 558"]
    list(chain(cosigning.state, cosigning.verifier))


def test_cosignature_verifies_from_the_receipt_alone(cosigning: Witnessing, cosigner: Cosigner) -> None:
    cosigning.send()
    [said] = cosigning.witnessed()
    text = f"{said['origin']}\n{said['size']}\n{said['root']}\n"
    line, _ = find_cosignature(cosigner.key, text, said["evidence"]["cosignature"])
    raw = base64.b64decode(line.split(" ")[2])
    at = int.from_bytes(raw[4:12], "big")
    cosigner.private.public_key().verify(raw[12:], f"cosignature/v1\ntime {at}\n{text}".encode())


def test_the_cosigned_checkpoint_is_kept_for_exports(cosigning: Witnessing, cosigner: Cosigner) -> None:
    sent = checkpoint(cosigning.state)
    cosigning.send()
    cosigning.grow(3)
    store = open_store(cosigning.state / "ledger.sqlite")
    kept = cosigned_checkpoint(store)
    assert kept is not None
    assert kept.startswith(sent)
    assert find_cosignature(cosigner.key, kept.partition("\n\n")[0] + "\n", kept)
    assert len(note.parse(kept)[1]) == 2
    out = cosigning.folder / "out"
    export(store, f"{cosigning.verifier}\n", out, False)
    assert (out / "cosigned").read_text() == kept


def test_a_checkpoint_carries_the_lines_of_all_who_cosigned_it(cosigning: Witnessing, cosigner: Cosigner) -> None:
    sent, second = checkpoint(cosigning.state), Cosigner([cosigning.verifier], "witness.example/w2")
    first = {"url": cosigning.options["url"], "key": cosigning.options["key"]}
    writer = open_writer(cosigning.settings, Clock())
    round = WitnessRun(writer, cosigning.state, {}, current_head(writer))
    with answering(second.reply) as url:
        both = {"one": first, "two": {"url": f"{url}/prefix", "key": second.key}}
        for name, options in both.items():
            witness = WitnessSettings("cosignature", options, cosigning.folder)
            assert round.send(name, witness).state == "taken"
    kept = cosigned_checkpoint(writer.store)
    assert kept is not None
    assert kept.startswith(sent)
    assert {name for name, _, _ in note.parse(kept)[1]} == {ORIGIN, "witness.example/w1", "witness.example/w2"}


def test_lost_cosigner_state_is_recovered_from_the_cosigner(cosigning: Witnessing, cosigner: Cosigner) -> None:
    cosigning.keep()
    cosigning.send()
    cosigning.roll_back()  # as if the guard had died before recording it
    cosigning.grow(5)
    assert cosigning.send().state == "taken"
    assert [asked.partition("\n")[0] for asked in cosigner.asked] == ["old 0", "old 0", "old 300"]


def test_a_cosigner_finds_a_rollback(cosigning: Witnessing) -> None:
    cosigning.keep()
    cosigning.grow(5)
    cosigning.send()
    cosigning.roll_back()
    result = cosigning.send()
    assert result.state == "contradicted"
    assert "the witness has seen 305 receipts, but the ledger has 300" in result.text


@pytest.mark.parametrize("more", [10, 200])
def test_a_cosigner_finds_a_fork(cosigning: Witnessing, more: int) -> None:
    cosigning.keep()
    cosigning.grow(10)
    cosigning.send()
    cosigning.roll_back()
    cosigning.grow(more, "another story")
    result = cosigning.send()
    assert result.state == "contradicted"
    assert "the witness has cosigned 310 receipts that differ from the first 310 of this ledger" in result.text
    assert cosigning.witnessed() == []


def test_cosigner_accepts_a_rotated_key_once_trusted(cosigning: Witnessing, cosigner: Cosigner) -> None:
    cosigning.send()
    key_rotation.rotate(cosigning.settings, Clock())
    assert cosigning.send().state == "taken"  # the checkpoint of the rotation is signed by both
    cosigning.grow(1)
    assert "does not trust this ledger's key" in cosigning.send().text
    cosigner.trusts.append(cosigning.verifier)
    assert cosigning.send().state == "taken"


def test_cosigner_that_does_not_know_the_ledger_is_reported(cosigning: Witnessing, cosigner: Cosigner) -> None:
    cosigner.trusts.clear()
    result = cosigning.send()
    assert (result.state, result.text) == (
        "failed",
        "the witness answered HTTP 404: it does not know this ledger's origin",
    )


def test_invalid_cosignature_is_refused(cosigning: Witnessing, cosigner: Cosigner) -> None:
    cosigner.spoil = True
    result = cosigning.send()
    assert result.state == "failed"
    assert "contains no valid cosignature by `witness.example/w1`" in result.text
    assert cosigning.witnessed() == []


def test_cosignature_by_another_key_of_the_same_name_is_refused(cosigning: Witnessing) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    cosigning.options["key"] = note.verifier("witness.example/w1", other, note.COSIGNATURE)
    assert cosigning.send().state == "failed"
