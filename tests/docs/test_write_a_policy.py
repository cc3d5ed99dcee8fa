"""The parts of docs/howto/write-a-policy.md that are about a server for files, under a guard of `init`."""

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.page import BIN, ROOT, blocks, fences

PAGE = ROOT / "docs" / "howto" / "write-a-policy.md"
PACKS = ROOT / "examples" / "packs"
CASES = """
[defaults]
groups = ["agents"]
[[case]]
name = "a write in a subfolder waits"
tool = "notes__write_file"
arguments = { path = "/home/you/notes/a/b.txt", content = "" }
outcome = "require_approval"
[[case]]
name = "a write beside the folder"
tool = "notes__write_file"
arguments = { path = "/home/you/notes2/b.txt", content = "" }
outcome = "deny"
policies = ["writes-stay-in-the-folder"]
[[case]]
name = "a write out of the folder"
tool = "notes__edit_file"
arguments = { path = "/home/you/notes/../b.txt", edits = [] }
outcome = "deny"
policies = ["writes-stay-in-the-folder"]
[[case]]
name = "a relative path"
tool = "notes__write_file"
arguments = { path = "b.txt", content = "" }
outcome = "deny"
policies = ["writes-stay-in-the-folder"]
[[case]]
name = "a move"
tool = "notes__move_file"
arguments = { source = "/home/you/notes/a", destination = "/home/you/notes/b" }
outcome = "deny"
policies = ["writes-stay-in-the-folder"]
[[case]]
name = "a read elsewhere"
tool = "notes__read_text_file"
arguments = { path = "/etc/hosts" }
outcome = "allow"
"""


def shell(folder: Path, script: str) -> str:
    env = {**os.environ, "PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder), "MCP_GUARD_CONFIG": "mcp-guard.toml"}
    words = ["bash", "-ec", script]
    done = subprocess.run(words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_writes_stay_in_one_folder_and_a_pack_takes_the_names_of_another_guard(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "mcp-guard").symlink_to(ROOT)
    shell(tmp_path, "mcp-guard init . --owner you --approver alice --yes")
    configuration, policies = tmp_path / "mcp-guard.toml", tmp_path / "policies"
    copied = (PACKS / "filesystem.toml").read_text().partition("[tools.")[2].partition("[approvers")[0]
    server = [sys.executable, str(PACKS / "recorded.py"), str(PACKS / "listings" / "filesystem.json")]
    configuration.write_text(
        f"{configuration.read_text()}\n[upstreams.notes]\ncommand = {server[0]!r}\nargs = {server[1:]!r}\n"
        f"[tools.{copied}".replace("files__", "notes__")
    )

    [shown] = [text for _, text in fences(PAGE) if '@id("writes-stay-in-the-folder")' in text]
    (policies / "folder.cedar").write_text(shown)
    (policies / "folder.cases.toml").write_text(CASES)
    assert "6 of 6 cases as expected" in shell(tmp_path, "mcp-guard policy test")

    for path in policies.iterdir():
        path.unlink()
    [adapting] = [block.commands for block in blocks(PAGE) if block.name.startswith("cp ~/src")]
    cases = (ROOT / "policies" / "filesystem" / "filesystem.cases.toml").read_text().count("[[case]]")
    assert f"{cases} of {cases} cases as expected" in shell(tmp_path, adapting)
