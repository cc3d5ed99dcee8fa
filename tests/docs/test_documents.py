"""What the documents tell a reader to type works, in order, and prints what they show."""

from pathlib import Path

import pytest

from tests.docs.page import ROOT, Block, blocks, fences, fits, run

NOT_RUN = {
    ("docs/tutorial/first-guard.md", "python3 -m venv ~/guarded-tutorial/venv"): "installs; tests/packaging does so",
}
"""Blocks that are not run, by document and first command, and why."""


def runnable(document: str) -> list[Block]:
    return [block for block in blocks(ROOT / document) if (document, block.name) not in NOT_RUN]


def check(document: str, folder: Path, home: Path) -> None:
    wanted = runnable(document)
    printed = run(wanted, folder, home)
    assert len(printed) == len(wanted)
    for block, said in zip(wanted, printed, strict=True):
        shown = block.prints
        assert shown is None or fits(shown, said), f"{document}: {block.name}\nshown:\n{shown}\nprinted:\n{said}"


def test_the_tutorial(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    check("docs/tutorial/first-guard.md", tmp_path / "folder", tmp_path)
