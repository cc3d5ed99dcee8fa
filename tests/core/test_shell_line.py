"""What a command line runs: every word of it, or a doubt."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.shell_line import Doubt, parse_line
from tests.proof_size import FULL

PLAIN = {
    "ls -la": [("ls", "-la")],
    "echo 'a  b' \"c d\" e\\ f": [("echo", "a  b", "c d", "e f")],
    "a && b || c; d | e\nf": [("a",), ("b",), ("c",), ("d",), ("e",), ("f",)],
    "ls # rm -rf /": [("ls",)],
    "echo a#b": [("echo", "a#b")],
    "x \\\n -y": [("x", "-y")],
    "git commit -m 'it''s'": [("git", "commit", "-m", "its")],
    "find . -name '*.py'": [("find", ".", "-name", "*.py")],
    "echo {} '$HOME' \\$HOME \"\\$HOME\"": [("echo", "{}", "$HOME", "$HOME", "$HOME")],
    "a | \\\n b": [("a",), ("b",)],
    "\n\nls\n\n": [("ls",)],
    "a &&\n b": [("a",), ("b",)],
    "echo hi;": [("echo", "hi")],
    "cat <<< text": [("cat",)],
    'grep a$ b$, $/c "d$|e"': [("grep", "a$", "b$,", "$/c", "d$|e")],
}
DOUBTED = {
    "echo 'a": Doubt.SYNTAX,
    'echo "a': Doubt.SYNTAX,
    "a &&": Doubt.SYNTAX,
    "a | | b": Doubt.SYNTAX,
    "a ;; b": Doubt.SYNTAX,
    "&& a": Doubt.SYNTAX,
    "ls >": Doubt.SYNTAX,
    "''": Doubt.SYNTAX,
    "ls \\": Doubt.SYNTAX,
    "ls \x00": Doubt.SYNTAX,
    "ls\r\nrm x": Doubt.SYNTAX,
    "ls >! x": Doubt.SYNTAX,
    "echo $HOME": Doubt.EXPANSION,
    'echo "$(id)"': Doubt.EXPANSION,
    "echo `id`": Doubt.EXPANSION,
    'echo "`id`"': Doubt.EXPANSION,
    "echo $'a'": Doubt.EXPANSION,
    "echo ${x}": Doubt.EXPANSION,
    "echo $((1))": Doubt.EXPANSION,
    "echo > $=HOME/.zshenv": Doubt.EXPANSION,
    "cat $^HOME/x": Doubt.EXPANSION,
    "cat $~HOME/x": Doubt.EXPANSION,
    'echo "$+HOME"': Doubt.EXPANSION,
    "cat $é/etc/passwd": Doubt.EXPANSION,
    "rm a{b,c}": Doubt.EXPANSION,
    "rm {a,b}": Doubt.EXPANSION,
    "cat .{},env}": Doubt.EXPANSION,
    "cat ''{},env}": Doubt.EXPANSION,
    "cat {},a{},b}": Doubt.EXPANSION,
    "echo =ls": Doubt.EXPANSION,
    "ls *.py": Doubt.GLOB,
    "ls a?": Doubt.GLOB,
    "ls [ab]": Doubt.GLOB,
    "cat ~/.ssh/id_rsa": Doubt.TILDE,
    "x --file=~/y": Doubt.TILDE,
    "(ls)": Doubt.COMPOUND,
    "{ ls; }": Doubt.COMPOUND,
    "f() { ls; }": Doubt.COMPOUND,
    "for i in a; do ls; done": Doubt.COMPOUND,
    "if a; then b; fi": Doubt.COMPOUND,
    "! ls": Doubt.COMPOUND,
    "[[ a ]]": Doubt.COMPOUND,
    "repeat 2 ls": Doubt.COMPOUND,
    "nocorrect ls": Doubt.COMPOUND,
    "diff <(ls) x": Doubt.COMPOUND,
    "cat <<EOF\nhi\nEOF": Doubt.HEREDOC,
    "cat <<-'EOF'\nhi\nEOF": Doubt.HEREDOC,
    "PATH=/tmp ls": Doubt.ASSIGNMENT,
    "X+=1 ls": Doubt.ASSIGNMENT,
    "X[1]=1": Doubt.ASSIGNMENT,
    'PATH="./bin" ls': Doubt.ASSIGNMENT,
    "A='' git push --force": Doubt.ASSIGNMENT,
    "echo > .claude/setting?.json": Doubt.SYNTAX,
    "echo >> .gi?/conf[i]g": Doubt.SYNTAX,
    "cat < .en*": Doubt.SYNTAX,
    "cd .gi? && echo x": Doubt.FOLDER,
    "echo " + "a" * 20_000: Doubt.SYNTAX,
    "a " * 2_000: Doubt.SYNTAX,
    "true ||\n cd sub && echo > ../x": Doubt.FOLDER,
    'echo "$\\\n(id)"': Doubt.SYNTAX,
    "echo $\\\n'\\x2eenv'": Doubt.SYNTAX,
    "a &\\\n& b": Doubt.SYNTAX,
    "echo >\\\n&f": Doubt.SYNTAX,
    "echo >&f": Doubt.SYNTAX,
    "echo >&'$(id)f'": Doubt.SYNTAX,
    "echo >&.claude\\'/settings.json": Doubt.SYNTAX,
    "echo >&'1'": Doubt.SYNTAX,
    "cat 2>&-.env": Doubt.SYNTAX,
    "cat 10>f": Doubt.SYNTAX,
    "cat id_ed<0-99999> x": Doubt.SYNTAX,
    "cat <->": Doubt.SYNTAX,
    "cat 3>&1-": Doubt.SYNTAX,
    "echo &>f git push -f": Doubt.SYNTAX,
    "cat 2>& -.env": Doubt.SYNTAX,
    "cat >&1-x": Doubt.SYNTAX,
    "true || cd sub && echo > ../x": Doubt.FOLDER,
    "true || a && cd sub && echo > ../x": Doubt.FOLDER,
    "cd sub && a || > x": Doubt.FOLDER,
    "ls |\n cd sub && echo > ../x": Doubt.FOLDER,
    "a &&\n": Doubt.SYNTAX,
    "a |&\n#": Doubt.SYNTAX,
    "a ;&b": Doubt.SYNTAX,
    ";&>": Doubt.SYNTAX,
    "sleep 9 &": Doubt.BACKGROUND,
    "a & b": Doubt.BACKGROUND,
    "cd a; echo > x": Doubt.FOLDER,
    "cd a && ls; echo > x": Doubt.FOLDER,
    "cd - && ls": Doubt.FOLDER,
    "cd +1 && ls": Doubt.FOLDER,
    "cd && ls": Doubt.FOLDER,
    "pushd a && ls": Doubt.FOLDER,
    "chdir a && ls": Doubt.FOLDER,
    "ls | cd a && ls": Doubt.FOLDER,
}
REDIRECTED = {
    "echo hi > f": (["/w/f"], []),
    "echo hi >>f 2>e <i": (["/w/f", "/w/e"], ["/w/i"]),
    "ls 2>&1 >/dev/null": (["/dev/null"], []),
    "ls &> o": (["/w/o"], []),
    "ls &>o 3>e && ls": (["/w/o", "/w/e"], []),
    "ls 2>&1 3>&- <&0": ([], []),
    "ls >| o": (["/w/o"], []),
    "> f": (["/w/f"], []),
    "2>e ls": (["/w/e"], []),
    "ls <> both": (["/w/both"], ["/w/both"]),
    "cd sub && echo > x": (["/w/sub/x"], []),
    "cd /etc && echo > x": (["/etc/x"], []),
    "cd .. && cd a && echo > x": (["/w/../a/x"], []),
    "a || b; cd sub && echo > x": (["/w/sub/x"], []),
    "cd sub &&\n echo > x": (["/w/sub/x"], []),
    "echo > '$HOME'": (["/w/$HOME"], []),
    "ls2>x": (["/w/x"], []),
}


@pytest.mark.parametrize("line", PLAIN)
def test_a_plain_line_has_exactly_these_commands(line: str) -> None:
    parsed = parse_line(line, "/w")
    assert [command.words for command in parsed.commands] == PLAIN[line]
    assert parsed.doubts == frozenset()


@pytest.mark.parametrize("line", DOUBTED)
def test_what_a_shell_would_change_is_a_doubt(line: str) -> None:
    assert DOUBTED[line] in parse_line(line, "/w").doubts


@pytest.mark.parametrize("line", REDIRECTED)
def test_redirections_are_resolved_in_the_folder_where_they_happen(line: str) -> None:
    parsed = parse_line(line, "/w")
    assert (list(parsed.writes), list(parsed.reads)) == REDIRECTED[line]
    assert parsed.doubts == frozenset()


def test_a_line_that_is_too_long_is_read_as_far_as_it_may_be() -> None:
    for rest in (" # " + "x" * 20_000, " x" * 2_000):
        assert parse_line(f"git push --force{rest}", "/w").commands[0].words[:3] == ("git", "push", "--force")


def test_a_command_knows_the_folder_that_it_runs_in() -> None:
    parsed = parse_line("cd sub && ls | wc", "/w")
    assert [command.folder for command in parsed.commands] == ["/w", "/w/sub", "/w/sub"]


PIECES = st.sampled_from(
    ["p", "q", " ", " ", " ", "'", '"', "\\", "&&", "||", ";", "|", ">", ">>", "<", "2>", "f", "-x", "a b", "$X", "*",
     "~", "{", "}", "(", "#", "\n", "=", "!", "&", "$(p)", "`p`", "<<<", ">&", "1", "-", "\\\n", "$", "|",
     "$=X", "$^X", "é", "<1-2>"]
)  # fmt: skip


@given(st.lists(PIECES, min_size=1, max_size=9).map("".join))
@settings(max_examples=2000 if FULL else 60, deadline=None)
def test_shells_run_nothing_that_a_line_without_doubts_does_not_show(shell: "Shell", line: str) -> None:
    parsed = parse_line(line, str(shell.folder))
    if parsed.doubts:
        return
    ran, files = shell.run(line)
    shown = [list(command.words) for command in parsed.commands]
    assert all(words in shown for words in ran)
    assert files <= {os.path.normpath(path) for path in parsed.writes}


END = "<end>"


class Shell:
    """A shell with nothing in its path but the programs `p` and `q`, which log their arguments."""

    def __init__(self, shell: str, folder: Path) -> None:
        self.shell, self.folder, self.log = shell, folder / "work", folder / "log"
        bin = folder / "bin"
        for made in (self.folder, bin):
            made.mkdir()
        for name in ("p", "q"):
            program = bin / name
            program.write_text(f'#!/bin/bash\nprintf "%s\\0" {name} "$@" "{END}" >> {self.log}\n')  # in one write
            program.chmod(0o755)
        self.environment = {"PATH": str(bin), "HOME": "/nowhere", "LC_ALL": "C.UTF-8"}

    def run(self, line: str) -> tuple[list[list[str]], set[str]]:
        """What was run, and the files that were made."""
        for path in (*self.folder.iterdir(), self.log):
            path.unlink(missing_ok=True)
        words = [self.shell, "-c", line]
        quiet = subprocess.DEVNULL
        subprocess.run(
            words, cwd=self.folder, env=self.environment, stdin=quiet, stdout=quiet, stderr=quiet, timeout=20
        )
        logged = self.log.read_text().split(f"{END}\0") if self.log.exists() else []
        ran = [entry.split("\0")[:-1] for entry in logged if entry]
        return ran, {str(path) for path in self.folder.iterdir()}


@pytest.fixture(scope="module", params=["bash", "dash", "zsh"])
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"there is no {request.param}")
    return Shell(program, tmp_path_factory.mktemp("shell"))
