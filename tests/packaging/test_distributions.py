"""The source distribution and the wheel, installed and run in a clean environment."""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcp_guard import __version__
from mcp_guard.cli.init_templates import PACK_FILE, PACK_FOLDER, POLICIES
from tests.proof_size import in_full

ROOT = Path(__file__).parent.parent.parent
UV = str(Path(sys.executable).with_name("uv"))
ONCE_PER_INTERPRETER = "import time: self [us] | cumulative | imported package"


@dataclass(frozen=True)
class Installed:
    """A new environment with the wheel and the locked dependencies; `run` gets none of our environment."""

    bin: Path
    home: Path

    def run(
        self, *words: str, cwd: Path | None = None, more: Mapping[str, str] = {}
    ) -> "subprocess.CompletedProcess[str]":
        env = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.home), **more}
        return subprocess.run(words, env=env, cwd=cwd or self.home, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as `make dist`, elsewhere."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([UV, "build", "-q", "--no-create-gitignore", "--out-dir", out, ROOT], check=True)
    return out


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    home = tmp_path_factory.mktemp("home")
    environment = home / "environment"
    [wheel] = dist.glob("*.whl")
    python = str(environment / "bin" / "python")
    for words in (
        ["venv", "-q", "--python", sys.executable, str(environment)],
        ["pip", "install", "-q", "--python", python, "--require-hashes", "-r", str(ROOT / "requirements.lock")],
        ["pip", "install", "-q", "--python", python, "--no-deps", str(wheel)],
    ):
        subprocess.run([UV, *words], check=True)
    return Installed(environment / "bin", home)


@pytest.fixture(scope="module")
def demonstration(installed: Installed) -> "subprocess.CompletedProcess[str]":
    """As a user starts it, wherever that is; tests/docs/test_documents.py has what it prints."""
    profile = {"PYTHONPROFILEIMPORTTIME": "1", "MCP_GUARD_CONFIG": "/nowhere.toml"}
    done = installed.run("mcp-guard", "demo", "--keep", "crm", more=profile)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def kept(installed: Installed, demonstration: "subprocess.CompletedProcess[str]") -> Path:
    """The folder that the demo creates."""
    for expected in ("amount 48,500", "denied by mcp-guard", "approved by Alice", "verified: 29", "NOT VERIFIED: "):
        assert expected in demonstration.stdout
    return installed.home / "crm"


def test_demo_starts_no_interpreter_beside_the_guard(demonstration: "subprocess.CompletedProcess[str]") -> None:
    assert demonstration.stderr.count(ONCE_PER_INTERPRETER) == 2  # the CRM has the guard's pipe
    assert "mcp_guard.downstream" in demonstration.stderr  # and the guard is a process of its own, as under any client


def test_source_distribution_has_every_tracked_file(dist: Path) -> None:
    """So that it can be built, tested and read like the repository."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [path] = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked.splitlines() if (ROOT / name).exists()} - packed == set()


def test_documents_install_the_files_that_are_built(dist: Path) -> None:
    built = {path.name for path in dist.iterdir()}
    named: set[str] = set()
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        named |= set(re.findall(r"\bmcp_guard-[\w.-]+\.(?:whl|tar\.gz)", document.read_text()))
    assert named == built


def test_wheel_built_from_the_tree_has_the_same_bytes_as_that_of_the_source_distribution(
    dist: Path, tmp_path: Path
) -> None:
    """So that anybody can build a release again and compare."""
    subprocess.run([UV, "build", "-q", "--wheel", "--no-create-gitignore", "--out-dir", tmp_path, ROOT], check=True)
    [path] = tmp_path.glob("*.whl")
    assert path.read_bytes() == (dist / path.name).read_bytes()


def test_wheel_contains_data_files(dist: Path) -> None:
    [path] = dist.glob("*.whl")
    packed = set(zipfile.ZipFile(path).namelist())
    data = [item for item in (ROOT / "mcp_guard").rglob("*") if item.is_file() and item.suffix not in (".py", ".pyc")]
    assert {str(item.relative_to(ROOT)) for item in data} - packed == set()
    assert "mcp_guard/py.typed" in packed
    assert "mcp_guard/shipped/policies/crm/closing.cedar" in packed
    assert f"mcp_guard/shipped/{POLICIES}/{PACK_FOLDER}/{PACK_FILE}" in packed
    assert not [name for name in packed if name.startswith(("tests/", "docs/", "benchmarks/"))]


@pytest.mark.parametrize(
    ("words", "said"), [(["--version"], f"mcp-guard {__version__}"), (["--help"], "usage: mcp-guard COMMAND")]
)
def test_command_is_installed(installed: Installed, words: list[str], said: str) -> None:
    done = installed.run("mcp-guard", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said)


@in_full
def test_package_makes_a_guarded_call(installed: Installed, kept: Path) -> None:
    done = installed.run("mcp-guard", "call", "crm__get_deal", '{"deal_id": "789"}', cwd=kept)
    assert (done.returncode, json.loads(done.stdout)["deal"]["stage"]) == (0, "Closed Won"), done.stderr


def test_every_receipt_says_which_version_wrote_it(installed: Installed, kept: Path) -> None:
    done = installed.run("mcp-guard", "log", "--last", "100", "--json", cwd=kept)
    receipts = json.loads(done.stdout)
    assert len(receipts) > 20
    assert {receipt["software"] for receipt in receipts} == {f"mcp-guard/{__version__}"}
