"""The unit in `deploy/systemd` is the one of docs/howto/systemd.md, for several gateways."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mcp_guard.cli.serve import build_parser
from tests.docs.page import BIN, ROOT
from tests.docs.test_systemd import PROGRAM, UNITS

UNIT = (ROOT / "deploy" / "systemd" / "mcp-guard@.service").read_text()


def settings(unit: str) -> set[str]:
    return {line for line in unit.splitlines() if re.match(r"[A-Z]\w+=", line)}


def test_a_gateway_is_confined_like_a_single_guard() -> None:
    different = settings(UNIT) ^ settings(UNITS["mcp-guard.service"])
    assert {line.split("=")[0] for line in different} == {"Description", "ExecStart", "RuntimeDirectory"}


def test_instance_is_named_by_its_port() -> None:
    [line] = re.findall(rf"^ExecStart={PROGRAM} serve (.*)$", UNIT, re.MULTILINE)
    options = build_parser().parse_args(shlex.split(line.replace("%i", "8767")))
    assert (str(options.config), options.port) == ("/etc/mcp-guard/mcp-guard.toml", 8767)


def test_systemd_accepts_the_unit_without_a_remark(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "mcp-guard@8766.service"
    unit.write_text(UNIT.replace(PROGRAM, str(BIN / "mcp-guard")))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
