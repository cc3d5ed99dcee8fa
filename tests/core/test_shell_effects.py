"""What is known of programs, and that what is not known says so."""

import pytest

from mcp_guard.core import shell_effects
from mcp_guard.core.shell_effects import NetworkUse
from mcp_guard.core.shell_line import SimpleCommand, parse_line


def only(line: str) -> SimpleCommand:
    [command] = parse_line(line, "/w").commands
    return command


@pytest.mark.parametrize(
    ("line", "use"),
    [
        ("ls -la", NetworkUse.NO), ("/bin/cat x", NetworkUse.NO), ("git status", NetworkUse.NO),
        ("git -C /x push", NetworkUse.YES), ("git push", NetworkUse.YES), ("curl x", NetworkUse.YES),
        ("npm install", NetworkUse.YES), ("pip install x", NetworkUse.YES), ("npx tsc", NetworkUse.YES),
        ("pytest", NetworkUse.UNKNOWN), ("./ls", NetworkUse.UNKNOWN), ("/tmp/ls", NetworkUse.UNKNOWN),
        ("git frobnicate", NetworkUse.UNKNOWN), ("/usr/bin/../../tmp/ls", NetworkUse.UNKNOWN),
    ],
)  # fmt: skip
def test_network_use_is_known_or_said_to_be_unknown(line: str, use: NetworkUse) -> None:
    assert shell_effects.network_use(only(line)) is use


@pytest.mark.parametrize(
    "line",
    ["npm install x", "npm i x", "npm ci", "pip3 install -r r.txt", "python -m pip install x", "uv add x", "npx x",
     "apt-get install -y x", "brew install x", "go get x", "cargo add x", "yarn", "yarn add x", "uvx ruff"],
)  # fmt: skip
def test_installing_packages_is_recognized(line: str) -> None:
    assert shell_effects.installs_packages(only(line))


@pytest.mark.parametrize("line", ["npm test", "pip list", "cargo build", "go test ./...", "yarn test", "ls install"])
def test_other_uses_of_package_managers_install_nothing(line: str) -> None:
    assert not shell_effects.installs_packages(only(line))


@pytest.mark.parametrize(
    "line",
    ["git push -f", "git push --force", "git push --force-with-lease origin x", "git push origin +main", "git push -uf",
     "git -C x push --forc", "git push --mirror", "git push origin :main", "git push --delete origin x",
     "git push -d origin x", "/usr/bin/git push -f", "/usr//bin/git push -f",
     "git --exec-path x push -f", "/usr/lib/git-core/git-push -f", "git -c a=b push --force"],
)  # fmt: skip
def test_a_push_that_replaces_or_removes_is_forced(line: str) -> None:
    assert shell_effects.forces_push(only(line))


@pytest.mark.parametrize("line", ["git push", "git push -u origin main", "git push origin a:b", "git fetch -f"])
def test_other_pushes_are_not_forced(line: str) -> None:
    assert not shell_effects.forces_push(only(line))


@pytest.mark.parametrize(
    "line",
    ["sudo ls", "env ls", "xargs rm", "bash -c ls", "python3 -c x", "python3.12 x.py", "find . -exec rm x", "eval ls",
     "find . -delete", "git -c core.pager=x log", "git log --output=x", "git diff --ext-diff", "rg --pre x y",
     ". x.sh", "source x", "sed -i s/a/b/ x", "awk x", "time ls", "git --exec-path=/tmp status",
     "test -v x[$(id)]", "[ x[1] -eq 1 ]", "printf -v x y", "printf -vPATH ./bin", "git commit", "git commit -a",
     "git add -p", "git add --patch x", "git add -vp", "git add --e", "git commit -em x", "git commit -m x --edit",
     "printf %n HOME", "printf -- x%-3.*ln PATH", "printf %1$n HOME", "git diff --outpu x", "git log --ex x",
     "noglob ls", "emulate zsh -c id", "let a[$(id)]", "jobs -x id", "compgen -C id", "complete -C id", "bind -x id",
     "fc -e id", "wait -p a[$(id)]", "printf %d a[$(id)]", "printf %*s a 1", "printf \\u0025d a", "printf -%d a",
     "printf %s%5.1f 1 a", "test -t a[$(id)]", "test -e x -a -t a", "exit a[$(id)]", "return a", "shift a", "break a",
     "continue a", "logout a", "bye a", "print -f %d a", "private a[$(id)]"],
)  # fmt: skip
def test_a_program_that_runs_another_is_recognized(line: str) -> None:
    command = SimpleCommand(tuple(line.split()), "/w")
    assert shell_effects.runs_another(command)


@pytest.mark.parametrize("line", ["ls", "git status", "git --no-pager diff", "find . -name x", "grep -r x .", "rg x",
     "test -f x", "[ 1 -eq 2 ]", "test -t 1", "exit 1", "return", "break 2", "printf %5.1f 2.50",
     "printf '%-10s|%b\\t%%' a b", "printf -- -%s a",
     "printf %s x", "printf '100%%\\n'", "printf %d%% 7", "git log --oneline -3", "git commit --only -m x a",
     "git commit -m x", "git commit -am x", "git commit --message=x", "git add x",
     "git commit -mpie", "git commit -m pie", "git add -v pie"])  # fmt: skip
def test_a_program_that_runs_no_other_is_plain(line: str) -> None:
    assert not shell_effects.runs_another(only(line))


@pytest.mark.parametrize(
    "line", ["date -s 2020-01-01", "date -us @0", "date --se=now", "date 010100002020.00", "/bin/date -uRsnow"]
)
def test_setting_the_clock_is_another_operation(line: str) -> None:
    """A window of a rate would be over."""
    assert shell_effects.operation(only(line)) == "date --set"


@pytest.mark.parametrize("line", ["date", "date +%s", "date -Iseconds", "date -u -d yesterday", "date -r a.py"])
def test_asking_for_the_time_is_just_that(line: str) -> None:
    assert shell_effects.operation(only(line)) == "date"
