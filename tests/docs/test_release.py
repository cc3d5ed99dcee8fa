"""docs/howto/release.md: its commands sign and check as it says, with a key made for the test."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from mcp_guard import __version__
from tests.docs.page import ROOT, Block, blocks, fits, run

PAGE = blocks(ROOT / "docs" / "howto" / "release.md")
WORKFLOW = (ROOT / ".github" / "workflows" / "release.yml").read_text()
FILES = (
    f"mcp_guard-{__version__}-py3-none-any.whl",
    f"mcp_guard-{__version__}.tar.gz",
    "requirements.lock",
    "requirements-all.lock",
)
COPIED = ("CHANGELOG.md", "mcp_guard/__init__.py", ".github/workflows/release.yml")
ORDER = ("ssh-keygen -q -t", "VERSION=", "git tag", "ssh-keygen -q -Y sign", "ssh-keygen -Y verify")
NOT_RUN = ("gh ", "git push", "git checkout", "make dist")
"""They need the project's repository, or build (tests/packaging does so)."""


def test_release_is_signed_and_checked_as_the_page_says(tmp_path: Path) -> None:
    clone, home = tmp_path / "clone", tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".gitconfig").write_text("[user]\nname = m\nemail = m@example.com\n")
    for name in COPIED:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=m", "-c", "user.email=m@example.com", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *words], cwd=clone, check=True)
    (clone / ".git" / "info" / "exclude").write_text("dist\n")
    (clone / "dist").mkdir()
    for name in FILES:
        (clone / "dist" / name).write_text(name)
    sums = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in FILES)
    (clone / "dist" / "SHA256SUMS").write_text(sums)

    wanted = [find(start) for start in ORDER]
    wanted.insert(-1, Block("cp -R dist release\n", None))  # as a user downloads it
    for block, printed in zip(wanted, run(wanted, clone, home), strict=True):
        assert block.prints is None or fits(block.prints, printed), printed


def test_every_other_block_of_the_page_is_known() -> None:
    rest = {block.name for block in PAGE} - {find(start).name for start in ORDER}
    assert [name for name in rest if not name.startswith(NOT_RUN)] == []


def find(start: str) -> Block:
    [found] = [block for block in PAGE if block.name.startswith(start)]
    return found


def test_workflow_runs_only_pinned_actions_and_the_projects_own_build() -> None:
    used = re.findall(r"uses: (\S+)", WORKFLOW)
    assert len(used) == 2
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)
    assert "- run: make dist\n" in WORKFLOW
    assert WORKFLOW.index("permissions: {}") < WORKFLOW.index("jobs:")
