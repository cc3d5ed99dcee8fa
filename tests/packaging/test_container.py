"""The Containerfile, as far as it can be tested without building: what it copies, installs and runs."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_guard.cli import COMMANDS
from tests.live.running_guard import command, scripted, write_config
from tests.packaging.test_distributions import ROOT, UV

TEXT = re.sub(r"\\\n", "", (ROOT / "Containerfile").read_text())
LINES = [line.split(" ", 1) for line in TEXT.splitlines() if line and not line.startswith("#")]
SHIPPED = ("mcp_guard", "examples/crm", "policies/crm", "policies/coding-agent")
"""What a wheel is made of (pyproject.toml)."""


def only(word: str) -> str:
    [found] = [rest for first, rest in LINES if first == word]
    return found


def test_copied_files_exist_and_suffice_for_the_build(tmp_path: Path) -> None:
    left_out = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()]
    for copied in [rest.split() for word, rest in LINES if word == "COPY" and "--from" not in rest]:
        *sources, target = copied
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / "src" / target, ignore=shutil.ignore_patterns(*left_out))
            else:
                (tmp_path / "src").mkdir(exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / "src" / target)
    subprocess.run([UV, "build", "-q", "--wheel", "--out-dir", tmp_path / "dist", tmp_path / "src"], check=True)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
    listed = subprocess.run(["git", "ls-files", *SHIPPED], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert packed == {re.sub(r"^(examples|policies)/", r"mcp_guard/shipped/\1/", name) for name in listed.split()}


def test_image_installs_locked_dependencies() -> None:
    installs = [rest for word, rest in LINES if word == "RUN" and "pip install" in rest]
    assert all(
        "--require-hashes -r requirements-all.lock" in install or "--no-deps ." in install for install in installs
    )


def test_image_runs_unprivileged_with_state_on_a_volume() -> None:
    assert only("USER") == "10001"
    made = next(rest for word, rest in LINES if word == "RUN" and "useradd" in rest)
    assert "--uid 10001" in made
    assert f"install -d -m 0700 -o mcp-guard -g mcp-guard {only('VOLUME')}" in made


@pytest.fixture
def served(tmp_path: Path) -> Iterator[int]:
    """Runs its command on a free port; yields the port."""
    words = [*json.loads(only("ENTRYPOINT")), *json.loads(only("CMD"))]
    assert (words[0], words[1] in COMMANDS) == ("mcp-guard", True)
    config = write_config(tmp_path, scripted("up", tmp_path), more='[serve]\nhost = "0.0.0.0"\nport = 0\n')
    variable = re.search(r"(MCP_GUARD_CONFIG)=\S+", only("ENV"))
    assert variable is not None
    with subprocess.Popen(
        command(*words[1:]), env={variable[1]: str(config), "PATH": "/usr/bin:/bin"}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        yield next(int(line.split()[-1]) for line in process.stderr if "serving" in line)
        process.terminate()


def test_health_check_asks_the_server(served: int) -> None:
    program, *words = json.loads(only("HEALTHCHECK").removeprefix("CMD "))
    assert program == "python"
    assert only("EXPOSE") in words[-1]

    def healthy(port: int) -> bool:
        checked = [sys.executable, *words[:-1], words[-1].replace(only("EXPOSE"), str(port))]
        return subprocess.run(checked, stderr=subprocess.DEVNULL).returncode == 0

    assert healthy(served)
    assert not healthy(1)
