"""Drills in a ledger: what is no drill cannot be called one, and one that was missed names those who missed it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_asyncio

from mcp_guard.core.model import Json
from mcp_guard.verifier import verify_ledger
from tests.promises.drilling import ask, drilling, make_drill
from tests.promises.harness import pending_id
from tests.verifier.resign import sign_anew

Forgery = Callable[[Json, Json], None]
"""Changes a receipt, with the `drill` of another one at hand."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Json]:
    """The state folder of a ledger with a missed drill and a denied request, and the `drill` of the former."""
    folder = tmp_path_factory.mktemp("drills")
    harness = drilling(folder)
    harness.approve(await make_drill(harness))
    harness.approve(pending_id(await ask(harness, 170)), verdict="deny")
    [missed] = harness.receipts("approval.missed")
    harness.close()
    return folder / "state", missed["drill"]


def call_drill(receipt: Json, drill: Json) -> None:
    if receipt["kind"] == "approval.denied":
        receipt["drill"] = {name: value for name, value in drill.items() if name != "missed"} | {"caught": ["alice"]}


def call_approval(receipt: Json, drill: Json) -> None:
    if receipt["kind"] == "approval.missed":
        receipt["kind"] = "approval.granted"


def reword(receipt: Json, drill: Json) -> None:
    if receipt["kind"] == "approval.missed":
        receipt["drill"]["why"] = "nothing"


def name_another(receipt: Json, drill: Json) -> None:
    if receipt["kind"] == "approval.missed":
        receipt["drill"]["missed"] = ["carol"]


def hide(receipt: Json, drill: Json) -> None:
    if receipt["kind"] == "approval.missed":
        del receipt["drill"]


@pytest.mark.parametrize(
    ("forge", "problem"),
    [
        (call_drill, "is called a drill, but its decision hash does not commit to that"),
        (call_approval, "is called a drill, but its decision hash does not commit to that"),
        (reword, "is called a drill, but its decision hash does not commit to that"),
        (name_another, "names others than those who have voted on it"),
        (hide, "is missed, but no drill"),
    ],
)
def test_forged_drill_is_found(ended: tuple[Path, Json], tmp_path: Path, forge: Forgery, problem: str) -> None:
    state, drill = ended
    folder = shutil.copytree(state, tmp_path / "state")
    sign_anew(folder, "test.example/ledger", lambda receipt: forge(receipt, drill))
    report = verify_ledger(folder / "ledger.sqlite", folder / "ledger.pub")
    assert not report.ok
    assert problem in report.problem
