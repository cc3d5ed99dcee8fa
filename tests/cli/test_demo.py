"""The demonstration as a user starts it; tests/docs/test_documents.py has what it prints."""

import os
import subprocess
from pathlib import Path

from tests.live.running_guard import command

ONCE_PER_INTERPRETER = "import time: self [us] | cumulative | imported package"


def test_demo_starts_no_interpreter_beside_the_guard_wherever_it_is_run(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPROFILEIMPORTTIME": "1", "MCP_GUARD_CONFIG": "/nowhere.toml"}
    done = subprocess.run(command("demo", "--keep", "crm"), cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, "completed as expected" in done.stdout) == (0, True), done.stdout
    assert done.stderr.count(ONCE_PER_INTERPRETER) == 2  # the demonstration and the guard; the CRM has the guard's pipe
    assert "mcp_guard.downstream" in done.stderr  # and the guard is a process of its own, as under any client
