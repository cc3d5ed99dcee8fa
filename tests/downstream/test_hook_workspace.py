"""What the file system says of a workspace: what a pattern stands for."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.shell_line import Doubt, parse_line
from mcp_guard.downstream.hooks import workspace
from mcp_guard.downstream.hooks.workspace import expand
from tests.proof_size import FULL

FILES = (".env", "id_ed25519", "sub/.env", "e[n]v", "a]", "-")
PIECES = st.sampled_from(
    ["[", "[", "]", "]", "[!", "[^", "[[:alpha:]]", "[[.n.]]", "[[=n=]]", "'", "'", '"', '"', "\\", "-", "!",
     "^", "n", "e", "v", "z", "A-Z", "0-9", "*", "?", ".", ".e", "nv", "id_ed2551", "9", "/", "sub/", "**/", "<1-9>"]
)  # fmt: skip
INSIDE = st.sampled_from(["n", "!", "^", "-", "a", "z", "]", "[", "/", "[:alpha:]", "[.n.]", "'!'", '"-"', "\\^"])
BRACKETS = st.lists(INSIDE, min_size=1, max_size=4).map(lambda inside: f".e[{''.join(inside)}]v")
PATTERNS = st.one_of(st.lists(PIECES, min_size=1, max_size=7).map("".join), BRACKETS, BRACKETS.map("su?/{}".format))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patterns")
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh"])
@given(pattern=PATTERNS)
@settings(max_examples=2000 if FULL else 60, deadline=None)
def test_a_pattern_stands_for_at_least_the_files_that_a_shell_finds(folder: Path, shell: str, pattern: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    parsed = parse_line(f"ls {pattern}", str(folder))
    patterns = {os.path.join(folder, word) for command in parsed.commands for word in command.patterns}
    expanded, are_all = expand(patterns)
    if parsed.doubts != {Doubt.GLOB} or not are_all:
        return
    line = f"printf '%s\\n' {pattern}"
    found = subprocess.run([shell, "-c", line], cwd=folder, capture_output=True, text=True, timeout=20).stdout
    words = {word for command in parsed.commands for word in command.words}
    known = set(map(Path, expanded))
    paths = {os.path.join(folder, path) for path in found.splitlines() if path and path not in words}
    assert {Path("/", path.lstrip("/")) for path in paths} <= known  # `//` is another root for Python


@pytest.mark.parametrize("pattern", ["**/c*.json", "**", "s[u/b]b/x", "x" * 300 + "*"])
def test_a_pattern_that_is_not_looked_up_says_so(folder: Path, pattern: str) -> None:
    assert expand([f"{folder}/{pattern}", f"{folder}/sub/.*v"]) == ([f"{folder}/sub/.env"], False)


def test_the_patterns_of_a_line_are_looked_up_quickly_together(tmp_path: Path) -> None:
    """However many names a folder has; what was found until then counts."""
    (tmp_path / ".env").touch()
    many = tmp_path / "many"
    many.mkdir()
    for number in range(30_000):
        os.mknod(many / str(number))
    patterns = [f"{tmp_path}/.e*", *(f"{many}/{letter}*z" for letter in "abcdefghijklmnopqrs")]
    began = time.process_time()
    assert expand(patterns) == ([f"{tmp_path}/.env"], False)
    assert expand([f"{tmp_path}/.e*", *[f"{tmp_path}/{'?' * length}*" for length in range(20)]])[1]
    assert time.process_time() - began < 0.1


def test_no_more_matches_are_taken_than_are_looked_at_quickly(tmp_path: Path) -> None:
    for number in range(600):
        os.mknod(tmp_path / str(number))
    assert expand([f"{tmp_path}/*"])[1]
    found, are_all = expand([f"{tmp_path}/*", f"{tmp_path}/?*"])
    assert (len(found), are_all) == (workspace.MAX_MATCHES, False)
