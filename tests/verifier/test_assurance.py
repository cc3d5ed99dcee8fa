"""What `verify` says of a ledger that passes every check: what that proves, and as plainly what it does not."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from mcp_guard.cli import main as guard
from mcp_guard.core.approval import Route
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ledger.export import LedgerProofs
from mcp_guard.verifier import FAILED, OK, main, verify_ledger
from mcp_guard.verifier.report import Assurance, Report, describe
from tests.ledger.sized_ledger import fill, open_filled
from tests.live.running_guard import scripted, write_config
from tests.promises.harness import ALLOW, HOLD, SECOND, make_instance, open_harness, pending_id

NOTE = ToolCallRequest("crm__note", {"text": "x"})
SELF = Route("people", ("bob", "alice"), 3600 * SECOND, unsafe_self_approval=True)


def states(report: Report) -> Mapping[str, list[bool]]:
    """Whether each question is answered; one can be answered in part."""
    answers: dict[str, list[bool]] = {}
    for item in report.assurance:
        answers.setdefault(item.check, []).append(item.proved)
    return answers


def answer(report: Report, check: str) -> Assurance:
    [item] = [item for item in report.assurance if item.check == check]
    return item


async def approved_by(folder: Path, approver: str) -> Path:
    """The state folder of a guard where this person approved a call of bob's agent on behalf of dana."""
    harness = open_harness(folder, ALLOW + HOLD, routes={"people": SELF})
    id = pending_id(await harness.guard.call(make_instance(), NOTE))
    harness.approve(id, approver)
    await harness.guard.call(make_instance(), NOTE)
    (folder / "intent.json").write_bytes(
        LedgerProofs(harness.store).prove(harness.receipts("intent")[-1]["seq"], with_payloads=False)
    )
    harness.close()
    return folder / "state"


def test_a_rolled_back_copy_never_reads_as_a_clean_bill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    writer = open_filled(state, 20)
    writer.store.close()
    shutil.copytree(state, tmp_path / "old")
    writer = open_filled(state, 20)
    (tmp_path / "kept").write_text(writer.store.checkpoint())
    writer.store.close()
    old = [str(tmp_path / "old" / "ledger.sqlite"), "--key", str(state / "ledger.pub")]
    assert main(old) == OK, "alone, it cannot be told from the whole ledger"
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("verified: 20 receipts of test.example/ledger, the last of 2026-09-21 ")
    assert first.endswith("; NOT proved: 2 of 4, see Assurance")
    block = lines[lines.index("Assurance") :]
    assert "  NOT PROVED  truncation     that it was not rolled back: " in "\n".join(block)
    assert block[1].startswith("  NOT PROVED  ")
    assert main([*old, "--json"]) == OK
    report = json.loads(capsys.readouterr().out)
    by_name = {item["check"]: item for item in report["assurance"]}
    assert by_name["truncation"]["proved"] is by_name["witnesses"]["proved"] is False
    assert by_name["truncation"]["hint"].endswith("--against CHECKPOINT")
    assert {item["check"] for item in report["not_proved"]} == {"truncation", "witnesses"}
    assert main([*old, "--against", str(tmp_path / "kept")]) == FAILED


def test_a_kept_checkpoint_proves_no_rollback_before_it_and_nothing_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = open_filled(tmp_path, 20)
    (tmp_path / "kept").write_text(writer.store.checkpoint())
    fill(writer, 5)
    writer.store.close()
    key, kept = str(tmp_path / "ledger.pub"), str(tmp_path / "kept")
    assert main([str(tmp_path / "ledger.sqlite"), "--key", key, "--against", kept, "--json"]) == OK
    report = json.loads(capsys.readouterr().out)
    about = [(item["proved"], item["says"]) for item in report["assurance"] if item["check"] == "truncation"]
    assert about == [
        (True, "it was not rolled back to fewer than 20 receipts"),
        (False, "that no receipts after the first 20 were removed together with their checkpoint"),
    ]


async def test_an_approval_of_ones_own_request_is_reported_as_self_approved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = await approved_by(tmp_path, "bob")
    report = verify_ledger(state / "ledger.sqlite", state / "ledger.pub")
    assert (report.approvals, report.self_approvals) == (1, 1)
    item = answer(report, "self_approval")
    assert not item.proved
    assert item.says.startswith("that a second person approved: 1 of 1 approval is self-approved, by the agent's owner")
    assert f"(first: receipt {report.first_self_approval})" in item.says
    assert "  NOT PROVED  self_approval  " in describe(report)
    assert main([str(tmp_path / "intent.json"), "--key", str(state / "ledger.pub"), "--json"]) == OK
    handed_on = json.loads(capsys.readouterr().out)
    assert handed_on["self_approvals"] == 1, "also of one receipt that is handed on"


async def test_what_is_proved_of_an_approval_by_somebody_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = await approved_by(tmp_path, "alice")
    report = verify_ledger(state / "ledger.sqlite", state / "ledger.pub")
    assert answer(report, "self_approval").proved
    assert answer(report, "self_approval").says.endswith(" alone, as the guard recorded it")
    assert main([str(tmp_path / "intent.json"), "--key", str(state / "ledger.pub")]) == OK
    assert "user alone, as the guard recorded it" in capsys.readouterr().out, "a receipt alone contains no votes"
    assert states(report) == {
        "origin": [True],
        "truncation": [False],
        "witnesses": [False],
        "approvers": [False],
        "self_approval": [True],
        "outcomes": [True],
        "payloads": [True],
    }


def test_the_guards_own_command_says_that_it_used_the_key_beside_the_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--config", str(write_config(tmp_path, scripted("up", tmp_path)))]
    open_filled(tmp_path / "state", 3).store.close()
    assert guard(["verify", *at]) == OK
    assert (
        "  NOT PROVED  origin         whose ledger this is: its key was read from beside it" in capsys.readouterr().out
    )
    assert guard(["verify", "--key", str(tmp_path / "state" / "ledger.pub"), *at]) == OK
    assert "  proved      origin         " in capsys.readouterr().out


def test_verify_finds_that_the_ledger_was_rolled_back_since_its_last_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--config", str(write_config(tmp_path, scripted("up", tmp_path)))]
    state = tmp_path / "state"
    open_filled(state, 20).store.close()
    shutil.copy(state / "ledger.sqlite", tmp_path / "old.sqlite")
    open_filled(state, 10).store.close()
    assert guard(["verify", *at]) == OK
    for leftover in state.glob("ledger.sqlite*"):
        leftover.unlink()
    shutil.copy(tmp_path / "old.sqlite", state / "ledger.sqlite")
    capsys.readouterr()
    for _ in range(2):
        assert guard(["verify", *at]) == FAILED
        said = capsys.readouterr()
        assert said.out == (
            "NOT VERIFIED: the ledger as a whole: rolled back: "
            "a checkpoint of 30 receipts was signed, but only 20 are here\n"
        )
        assert said.err.startswith("hint: find out who changed it, and restore the newest copy; if this one is right, ")
    (state / "verified.json").unlink()
    assert guard(["verify", *at]) == OK


def test_verify_finds_that_the_ledger_was_replaced_since_its_last_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--config", str(write_config(tmp_path, scripted("up", tmp_path)))]
    open_filled(tmp_path / "state", 5).store.close()
    assert guard(["verify", *at]) == OK
    note = (tmp_path / "state" / "verified.json").read_text()
    shutil.rmtree(tmp_path / "state")
    open_filled(tmp_path / "state", 9).store.close()
    (tmp_path / "state" / "verified.json").write_text(note)
    capsys.readouterr()
    assert guard(["verify", *at]) == FAILED
    assert "replaced: the ledger of 5 receipts that was verified here last is another one" in capsys.readouterr().out


def test_the_report_fits_a_terminal() -> None:
    report = Report(ok=True, origin="x", checkpoint="a\nb\n")
    report.prove("order", "no receipt is missing, changed, inserted or out of order, nor anything else at all")
    report.leave_open("truncation", "that it was not rolled back, " * 4, "compare it with another " * 4)
    assert max(map(len, describe(report, 80).splitlines())) <= 80
    assert max(map(len, describe(report).splitlines())) > 100


async def test_a_part_without_votes_does_not_prove_who_approved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = await approved_by(tmp_path, "alice")
    (tmp_path / "approvers.json").write_text("[]")
    given = ["--key", str(state / "ledger.pub"), "--approvers", str(tmp_path / "approvers.json"), "--json"]
    assert main([str(tmp_path / "intent.json"), *given]) == OK
    [item] = [item for item in json.loads(capsys.readouterr().out)["assurance"] if item["check"] == "approvers"]
    assert not item["proved"]
    assert "the whole ledger" in item["says"]
