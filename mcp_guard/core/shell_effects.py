"""What is known of the programs that a command line runs: whether they use the network, install packages, force a push,
or run other programs. Pure.

It is a list of what is known, not of what is possible: a program that is not listed has the network use `unknown`, and
what a listed one does with its options, its configuration or its plugins is not followed. Policies decide what that
means; those in `policies/coding-agent` ask a person about everything that is not plainly harmless.
"""

import posixpath
import re
from collections.abc import Iterable
from enum import StrEnum

from mcp_guard.core.shell_line import SimpleCommand, names

SYSTEM_FOLDERS = ("/bin/", "/usr/bin/", "/usr/local/bin/", "/sbin/", "/usr/sbin/")


MAX_PATH = 4096
"""Characters of a path."""
_OPTION_LETTERS = re.compile("-[A-Za-z0-9]+")


class NetworkUse(StrEnum):
    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


LOCAL = names(
    "[ basename cat cd chmod chown cmp comm cp cut date df diff dirname du echo egrep expr false fgrep file grep "
    "head hostname id ln ls mkdir mktemp mv nl paste printf pwd readlink realpath rm rmdir seq sha1sum sha256sum "
    "sleep sort stat tac tail tee test touch tr true type uname uniq wc which whoami"
)
"""Programs that use no network, whatever their arguments."""
NETWORK = names(
    "aria2c aws az curl dig doctl fly flyctl ftp gcloud gh glab gsutil heroku host http httpie https kubectl lftp "
    "links lynx mosh mysql nc ncat netcat nmap nslookup ping psql redis-cli rsync s3cmd scp sftp socat ssh ssh- "
    "copy-id telnet tftp traceroute vercel w3m wget whois wrangler"
)
"""Programs that are there to use the network."""
RUNNERS = names(
    ". ash awk bash builtin bunx busybox chroot command csh dash deno doas enable env eval exec fish flock gawk "
    "ionice ksh lua make mawk nice node nodejs nohup npx osascript parallel perl php pipx powershell pwsh python "
    "python2 python3 ruby script sed setsid sh source stdbuf strace sudo su tclsh time timeout trap tsx uvx watch "
    "xargs zsh alias unalias declare export hash readonly set shopt typeset unset local read mapfile readarray "
    "getopts let jobs compgen complete bind fc wait noglob - emulate autoload functions setopt unsetopt zmodload sched "
    "vared float integer getln print private zformat zparseopts zpty zregexparse zstyle"
)
"""Programs that run others, or code, by their arguments or input; and builtins that change what later words mean."""
SUBCOMMANDS = names(
    "apk apt apt-get brew bun cargo composer conda docker dnf gem git go helm kubectl mamba npm nuget pacman pip "
    "pip3 pnpm poetry podman snap terraform uv yarn yum"
)
"""Programs whose first argument says what they do."""
INSTALLS = frozenset(
    f"{program} {verb}"
    for program, verbs in {
        "apk": "add upgrade",
        "apt": "install upgrade full-upgrade build-dep",
        "apt-get": "install upgrade dist-upgrade build-dep",
        "brew": "install upgrade tap bundle",
        "bun": "install i add a update x create",
        "cargo": "install add update binstall",
        "composer": "install require update create-project global",
        "conda": "install create update env",
        "dnf": "install upgrade update",
        "gem": "install update",
        "go": "get install",
        "mamba": "install create update",
        "npm": "install i in ins isntall add ci clean-install ic install-test it update up upgrade exec x init create",
        "nuget": "install add",
        "pacman": "-S -Sy -Syu -U",
        "pip": "install download wheel",
        "pip3": "install download wheel",
        "pnpm": "install i add update up dlx create import",
        "poetry": "install add update self",
        "snap": "install refresh",
        "uv": "add sync pip tool lock run",
        "yarn": "install add upgrade up dlx create global",
        "yum": "install upgrade update localinstall",
    }.items()
    for verb in verbs.split()
)
INSTALLERS = frozenset({"npx", "bunx", "pipx", "uvx"})
"""Programs that fetch a package and run it."""
GIT_NETWORK = names("archive clone fetch lfs ls-remote pull push remote send-email submodule svn")
GIT_LOCAL = names(
    "add blame branch cat-file check-ignore checkout cherry-pick clean commit describe diff diff-tree grep init "
    "log ls-files ls-tree merge merge-base mv rebase reflog reset restore rev-list rev-parse revert rm shortlog "
    "show show-ref stash status switch tag worktree"
)
GIT_HARMLESS_OPTIONS = frozenset({"--no-pager", "-P", "--no-optional-locks"})
TAKES_NUMBERS = names("break bye continue exit logout return shift")
NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")
"""What no shell evaluates: where zsh expects a number, it takes arithmetic, in which subscripts run commands."""
TEXT_FORMAT = re.compile(r"""([^%\\]|\\[abefnrtvx0-7\\'"]|%%|%[-+ #0-9]*(\.[0-9]*)?[bcqs])*""")
"""A format by which `printf` takes its arguments as text: neither as numbers nor as names of variables."""
NUMERIC_TESTS = names("-eq -ne -lt -le -gt -ge -t")
EDITORS = {"commit": ("-m", "-F", "--message", "--file", "--no-edit", "-C", "--reuse-message")}
"""What keeps Git from running an editor, which takes commands."""
FIND_ACTIONS = ("-exec", "-ok", "-delete", "-fprint", "-fls")
RISKY_OPTIONS = {"rg": ("--pre", "--hostname-bin"), "fd": ("-x", "-X", "--exec"), "sort": ("--compress",)}
"""Options by which a program runs another one."""
GIT_RISKY = ("--ext-diff", "--exec", "--upload-pack", "--receive-pack", "--open-files-in-pager", "--output")
"""Options of Git by which it runs a program or writes a file. It takes any unique beginning of them."""
GIT_ASKS = ("--int", "--pa", "--e")
"""Beginnings of options by which it asks for commands."""

FOLLOWS_LINKS = {
    **dict.fromkeys(("grep", "egrep", "fgrep"), re.compile("-[^-]*R|--d.*-r")),
    **dict.fromkeys(("rg", "fd"), re.compile("-[^-]*L|--fo")),
    "find": re.compile("-L$|-follow$|-files0"),
    "du": re.compile("-[^-]*L|--dereference$|--f"),
    "wc": re.compile("--f"),
    "file": re.compile("-[^-]*f|--f"),
    "diff": re.compile("-[^-]*r|--r"),
}
"""Options by which a program follows the links in the folders that it searches, or looks at what a file lists."""


def program_name(command: SimpleCommand) -> str:
    """The program's name; a path outside the system's folders is left as it is, because anything may be there."""
    program = posixpath.normpath(command.program) if command.program.startswith("/") else command.program
    for folder in SYSTEM_FOLDERS:
        if program.startswith(folder) and "/" not in program[len(folder) :]:
            return program[len(folder) :]
    return program


_SETS_CLOCK = re.compile(r"(-[uR]*s|--s).*|[0-9]{8,12}(\.[0-9]{2})?", re.DOTALL)
"""Arguments of `date(1)`: an option, abbreviated or beside others, or the time itself."""


def operation(command: SimpleCommand) -> str:
    """The program, and the subcommand of those that have one: `git push`, `npm install`, `ls`."""
    name = program_name(command)
    if name == "date" and any(map(_SETS_CLOCK.fullmatch, command.arguments)):
        return "date --set"
    if name not in SUBCOMMANDS:
        return name
    verb, _ = _git_verb(command.arguments) if name == "git" else (_first_verb(name, command.arguments), ())
    return f"{name} {verb}".strip()


def _first_verb(name: str, arguments: Iterable[str]) -> str:
    return next((word for word in arguments if name == "pacman" or not word.startswith("-")), "")


def _git_verb(arguments: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Git's subcommand, and its arguments. Options before it that take a value are known by name."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        at += 2 if arguments[at] in ("-C", "-c", "--git-dir", "--work-tree", "--namespace", "--config-env") else 1
    return (arguments[at], arguments[at + 1 :]) if at < len(arguments) else ("", ())


def runs_another(command: SimpleCommand) -> bool:
    """Whether the program runs another one, or code, that its arguments or its input name."""
    name, arguments = program_name(command), command.arguments
    if name in RUNNERS or name.startswith(("python", "perl", "ruby")):
        return True
    if name in TAKES_NUMBERS:
        return not all(map(NUMBER.fullmatch, arguments))
    if name in ("test", "["):  # shells evaluate subscripts, and zsh operands that are no numbers
        return bool({"-v", "-R"} & {*arguments}) or (
            not NUMERIC_TESTS.isdisjoint(arguments) and not all(map(_is_harmless_operand, arguments))
        )
    if name == "printf":
        return _evaluates(arguments)
    if name == "find":
        return any(word.startswith(FIND_ACTIONS) for word in arguments)
    if name == "git":
        verb, rest = _git_verb(arguments)
        before = arguments[: len(arguments) - len(rest) - (1 if verb else 0)]
        strange = [word for word in before if word not in GIT_HARMLESS_OPTIONS]
        if verb in EDITORS and not any(word.startswith(EDITORS[verb]) or _has_message(word) for word in rest):
            return True
        if verb in ("add", "commit") and any(word.startswith(GIT_ASKS) or _asks(word) for word in rest):
            return True
        return bool(strange) or any(map(_is_risky, rest))
    return any(word.startswith(RISKY_OPTIONS.get(name, ("\0",))) for word in arguments)


def follows_links(command: SimpleCommand) -> bool:
    """Whether the program follows links in folders, or a list, so that it may read what is not named."""
    name, options = program_name(command), [word for word in command.arguments if word.startswith("-")]
    if name == "ls":
        letters = "".join(word for word in options if not word.startswith("--"))
        return ("L" in letters or "--dereference" in options) and ("R" in letters or "--recursive" in options)
    return name in FOLLOWS_LINKS and any(map(FOLLOWS_LINKS[name].match, options))


def _is_harmless_operand(word: str) -> bool:
    return word in NUMERIC_TESTS or word in ("]", "!", "-a", "-o") or NUMBER.fullmatch(word) is not None


def _evaluates(arguments: tuple[str, ...]) -> bool:
    """Whether `printf` may set a variable or evaluate an argument."""
    if arguments[:1] == ("--",):
        arguments = arguments[1:]
    elif arguments and arguments[0].startswith("-"):
        return True
    takes_text = all(map(TEXT_FORMAT.fullmatch, arguments[:1]))
    return not takes_text and not all(map(NUMBER.fullmatch, arguments[1:]))


def _is_risky(word: str) -> bool:
    option = word.partition("=")[0]
    is_long = option.startswith("--") and option != "--"
    return word.startswith("-O") or (is_long and any(risky.startswith(option) for risky in GIT_RISKY))


def _has_message(word: str) -> bool:
    """Whether it is a cluster of options such as `-am`."""
    return word.startswith("-") and not word.startswith("--") and bool(re.match(r"-[a-zA-Z]*[mFC]", word))


def _asks(word: str) -> bool:
    """Whether it is a cluster of options with `-e`, `-i` or `-p`, before any that takes the rest as its value."""
    return re.match(r"-[^-mFCct]*[eip]", word) is not None


def network_use(command: SimpleCommand) -> NetworkUse:
    name, doing = program_name(command), operation(command)
    if name == "git":
        verb = doing.partition(" ")[2]
        if verb in GIT_NETWORK:
            return NetworkUse.YES
        return NetworkUse.NO if verb in GIT_LOCAL else NetworkUse.UNKNOWN
    if name in NETWORK or name in INSTALLERS or doing in INSTALLS or doing in ("docker pull", "docker push"):
        return NetworkUse.YES
    return NetworkUse.NO if name in LOCAL else NetworkUse.UNKNOWN


def most_network_use(commands: Iterable[SimpleCommand]) -> NetworkUse:
    """Of all commands together: `yes` if one uses it for certain, `unknown` if that of one is not known."""
    uses = {network_use(command) for command in commands}
    if NetworkUse.YES in uses:
        return NetworkUse.YES
    return NetworkUse.UNKNOWN if NetworkUse.UNKNOWN in uses else NetworkUse.NO


def installs_packages(command: SimpleCommand) -> bool:
    words = command.words
    by_module = program_name(command).startswith("python") and "-m" in words and {"pip", "pipx", "uv"} & {*words}
    is_yarn = program_name(command) == "yarn" and operation(command) in ("yarn", "yarn install")
    return program_name(command) in INSTALLERS or operation(command) in INSTALLS or bool(by_module) or is_yarn


def forces_push(command: SimpleCommand) -> bool:
    """Whether it is a `git push` that may remove or replace commits or branches of the other side."""
    name, words = posixpath.basename(program_name(command)), command.arguments
    if name == "git":  # an option that is not known may have taken the word before
        name, words = ("git-push", words[words.index("push") + 1 :]) if "push" in words else ("", ())
    return name == "git-push" and any(map(_forces, words))


def _forces(word: str) -> bool:
    if word.startswith("--"):
        return word.startswith(("--f", "--mi", "--d", "--pru"))  # Git takes any unique beginning of an option
    if word.startswith("-"):
        return any(letter in word.partition("o")[0] for letter in "fd")  # `-o` takes the rest of the word
    return word.startswith("+") or word.startswith(":")


def named_paths(command: SimpleCommand) -> list[str]:
    """Each argument that may be a path, and what follows `=` or letters in an option: absolute, not normalized."""
    end = command.arguments.index("--") if "--" in command.arguments else len(command.arguments)
    words = [word for at, word in enumerate(command.arguments) if word and (at > end or not word.startswith("-"))]
    values = [word.partition("=")[2] for word in command.arguments if "=" in word]
    found = [*words, *values, *attached_values(command)]
    if network_use(command) is not NetworkUse.NO:
        found = [path for path in found if "://" not in path]
    return [posixpath.join(command.folder, path) for path in found if path]


def attached_values(command: SimpleCommand) -> list[str]:
    """What may be the value of an option in the same word, after any number of letters: `.env` of `-rf.env`. Most are
    no names of anything."""
    options = [(word, found.end()) for word in command.arguments if (found := _OPTION_LETTERS.match(word))]
    return [word[at:] for word, end in options for at in range(2, end + 1) if 0 < len(word) - at <= MAX_PATH]
