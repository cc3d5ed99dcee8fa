"""The tools of the upstream `host`: what coding agents run themselves, as typed calls for policies. Pure.

A coding agent's own tools (`Bash`, `Edit`, `WebFetch`, …) reach the guard through the agent's hooks. Each call becomes
a call of one of these tools, with everything that the agent said about it and with what follows from that: which
programs a command line runs, which paths are outside the workspace, which hold secrets. `downstream/hooks` maps the
names of each agent to these.
"""

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from typing import Any

from mcp_guard.core import shell_effects, shell_files
from mcp_guard.core.model import Effect, Json, ToolRule
from mcp_guard.core.resource_uri import is_host_normal
from mcp_guard.core.shell_effects import MAX_PATH
from mcp_guard.core.shell_line import Doubt, ShellLine, SimpleCommand, names, parse_line

HOST = "host"
"""The name of the upstream."""
OTHER = "Other"


Search = tuple[str, Callable[[str], bool]]
"""A folder, and which paths in it are wanted."""


class UnknownShape(Exception):
    """The input of a tool is not what this tool takes; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where the agent works. `root` is the folder that the agent was started for, `folder` where the call is made.

    `resolve` follows the links of an absolute path, as the agent's system would. `git_runs_programs` says whether Git
    in a folder, or a commit there, runs programs that files of the agent could name, and `exists` whether there is such
    a file. `expand` are the paths that patterns stand for, and whether these are all. `search` are those below folders
    that are wanted; None if there are too many to look through. `digest` says what a file holds; empty if it is none.
    """

    root: str
    folder: str
    resolve: Callable[[str], str] = posixpath.normpath
    git_runs_programs: Callable[[str, bool], bool] = lambda _folder, _commits: False
    expand: "Callable[[list[str]], tuple[list[str], bool]]" = lambda _: ([], True)
    exists: Callable[[str], bool] = lambda _: True
    search: "Callable[[list[Search]], list[str] | None]" = lambda _: []
    digest: Callable[[str], str] = lambda _: ""

    def absolute(self, path: str) -> str:
        return posixpath.join(self.folder, path)

    def holds(self, path: str) -> bool:
        """Whether this absolute path is in the workspace, as it is written and with its links followed."""
        root = self.resolve(self.root)
        return _is_below(posixpath.normpath(path), {posixpath.normpath(self.root), root}) and _is_below(
            self.resolve(path), {root}
        )


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


SECRET_NAMES = re.compile(
    r"""\.env([._-].*|rc)? | .*\.(env|pem|key|p12|pfx|jks|keystore|kdbx|ovpn|ppk|asc|gpg)
    | id_(rsa|dsa|ecdsa|ed25519)(_sk)?
    | \.(netrc|npmrc|pypirc|pgpass|git-credentials|htpasswd|my\.cnf|boto|s3cfg|dockercfg|vault-token) | _netrc
    | .*(secret|credential|password|passwd|token)s?(\.[a-z0-9]+)? | shadow | kubeconfig | .*\.kubeconfig
    | (service[-_]?account|client_secret).*\.json | terraform\.tfstate(\.backup)? | .*\.tfvars""",
    re.VERBOSE | re.IGNORECASE,
)
SECRET_FOLDERS = names(
    ".ssh .gnupg .aws .azure .gcloud gcloud .kube .docker .password-store keyrings .mozilla .config/gh"
)
EXAMPLES = re.compile(
    r"\.env\.(example|sample|template|dist)|(example|sample|template|process|.*meta)\.env|.*\.pub", re.I
)
"""Names that look like those of secrets and hold none; `process.env` is an expression."""
PROTECTED = re.compile(
    r"""(^|/)(
    # agents and editors
    \.(claude|gemini|cursor|codex|vscode|vscode-server|idea|devcontainer|agents|opencode|kiro|kilocode|roo|continue|zed
    |windsurf|codeium|amazonq|junie)(/.*)?
    | \.claude\.json | claude_desktop_config\.json | \.?mcp(_config)?\.json | opencode\.jsonc? | .*\.code-workspace
    | \.config/(zed|opencode)/.* | zed/settings\.json | \.devcontainer\.json | mcp-guard\.toml
    | (CLAUDE|AGENTS?|GEMINI)(\.local|\.override)?\.md | \.(cursor|windsurf|cline)rules(/.*|-.*)? | \.rules
    | \.goosehints | \.aider\.conf\.yml | \.github/copilot-instructions\.md
    | \.github/(instructions|agents|prompts|hooks|skills|chatmodes)(/.*)?
    # continuous integration
    | \.(circleci|buildkite|gitlab|woodpecker)(/.*)? | \.(github|gitea|forgejo)/(workflows|actions)(/.*)?
    | \.(gitlab-ci|travis|drone|woodpecker|cirrus)\.ya?ml | (azure|bitbucket)-pipelines\.ya?ml | \.?appveyor\.ya?ml
    | Jenkinsfile(\..*)?
    # Git, shells and what runs with them
    | \.(git|githooks|husky|mise)(/.*)? | \.gitconfig | \.config/(git|fish|mise|autostart)/.*
    | \.bash(rc|_profile|_aliases|_login|_logout) | \.z(shrc|shenv|profile|login|logout) | \.x?profile | \.inputrc
    | \.exrc | \.envrc | \.?mise(\..*)?\.toml | mise/config.*\.toml
    | \.yarnrc(\.yml)? | \.pre-commit-config\.ya?ml | \.?lefthook(-local)?\.(ya?ml|toml|json)
    | \.lintstagedrc.* | lint-staged\.config\..* )$""",
    re.VERBOSE | re.IGNORECASE,
)
"""Files that steer an agent, or that other programs run without being asked; and such folders as a whole."""
PLAIN_BRACKET = re.compile(r"[^\[\]]*\[([A-Za-z0-9_]|[0-9]-[0-9])+\][^\[\]]*")
"""A pattern whose brackets mean the same to all programs."""
SECRET_SAMPLES = (".env", ".env.local", ".npmrc", ".netrc", "id_rsa", "id_ed25519", "server.pem", "server.key", "x.p12")
"""Names that a pattern must not stand for, unless it stands for any name."""
MAX_PATTERNS, MAX_PATCHED = 16 * 1024, 1000
"""Characters of the patterns of a search that are looked at, and files of a patch."""
MAX_RUN = 32
"""Files of a line of which it is noted what they hold."""
MAX_PATTERN, MAX_EXPANDED, MAX_ALTERNATIVES = 256, 20, 64
"""Characters of a pattern that are compared, patterns of a line that are looked up, and what braces stand for."""
MAX_ATTACHED, OF_EACH_VALUE = 64 * 1024, 32
"""Characters of what may be values of options in the same words of a line, and how many each one counts for more."""


def widen_brackets(pattern: str) -> str:
    """A pattern that matches at least what this one does in any shell. They differ in classes, negation, ranges of
    letters and quotes in brackets."""
    start, end = pattern.find("["), pattern.rfind("]")
    return f"{pattern[:start]}*{pattern[end + 1 :]}" if -1 < start < end else pattern


def may_hold_secrets(path: str) -> bool:
    """By its name and its folders; what a file holds is not looked at."""
    parts = [part for part in re.split(r"[/:=,]", path) if part]
    if not parts or EXAMPLES.fullmatch(parts[-1]):
        return False
    folders = {part.lower() for part in parts} | {f"{a}/{b}".lower() for a, b in pairwise(parts)}
    return bool(folders & SECRET_FOLDERS) or any(SECRET_NAMES.fullmatch(part) for part in parts)


def may_match_secrets(pattern: str, finds_hidden: bool = False) -> bool:
    """Whether it is a pattern of a shell that stands for names of secrets, and not for all names or those of a type. In
    a shell, a dot at the beginning is written; the patterns of searches find hidden files without it."""
    wide = pattern if PLAIN_BRACKET.fullmatch(pattern) else widen_brackets(pattern)
    last = wide.rstrip("/").rpartition("/")[2]
    if not any(sign in last for sign in "*?[\\") or last.strip("*") == "":
        return False
    last = last.replace("\\", "")
    if len(last) > MAX_PATTERN:
        last = last[:MAX_PATTERN].partition("[")[0] + "*"  # stands for all that the whole one does
    return any(
        fnmatchcase(name, last) and (finds_hidden or last[0] == "." or name[0] != ".") for name in SECRET_SAMPLES
    )


def alternatives(pattern: str) -> list[str]:
    """What a pattern with braces such as `*.{py,ts}` stands for. Very many are taken for one of a secret."""
    done, left = list[str](), [pattern]
    while left and len(done) + len(left) < MAX_ALTERNATIVES:
        text = left.pop()
        if (braces := re.search(r"\{([^{}]*)\}", text)) is None:
            done.append(text)
        else:
            left += [text[: braces.start()] + part + text[braces.end() :] for part in braces[1].split(",")]
    return [SECRET_SAMPLES[0]] if left else done


def has_changed(was: Json, now: Json) -> bool:
    """Whether a call is another one by now. How many files are looked through depends on the load of the machine."""
    many = [Doubt.MANY_FILES in arguments.get("doubts", ()) for arguments in (was, now)]
    ignored = {"doubts", "secrets"} if many[0] != many[1] else set[str]()
    return any(was.get(name) != now.get(name) for name in (was.keys() | now.keys()) - ignored)


def is_protected(path: str) -> bool:
    return PROTECTED.search(posixpath.normpath(path)) is not None


# Definitions

TEXT: Json = {"type": "string"}
TEXTS: Json = {"type": "array", "items": {"type": "string"}}
FLAG: Json = {"type": "boolean"}
ABOUT_PATHS: Json = {"path": TEXT, "inside": FLAG, "secret": FLAG, "protected": FLAG}
ABOUT_REST: Json = {"options": TEXTS, "more": TEXT}
"""The names of the input's other members, and these members as JSON: nothing that the agent said is left out."""


def _define(name: str, description: str, properties: Mapping[str, Json], reads: bool = False) -> Json:
    members = {**properties, **ABOUT_REST}
    schema = {"type": "object", "properties": members, "required": sorted(members), "additionalProperties": False}
    hints = {"readOnlyHint": True} if reads else {}
    return {"name": name, "description": description, "inputSchema": schema, "annotations": hints}


_BASH = {
    "command": TEXT,
    "cwd": TEXT,
    "programs": TEXTS,
    "operations": TEXTS,
    "arguments": TEXTS,
    "writes": TEXTS,
    "reads": TEXTS,
    "doubts": {"type": "array", "items": {"type": "string", "enum": [str(doubt) for doubt in Doubt]}},
    "network": {"type": "string", "enum": [str(use) for use in shell_effects.NetworkUse]},
    "installs": FLAG,
    "force_push": FLAG,
    "outside": TEXTS,
    "writes_outside": FLAG,
    "protected": TEXTS,
    "secrets": TEXTS,
    "runs": TEXTS,
}
DEFINITIONS: tuple[Json, ...] = (
    _define("Bash", "Run a command line in a shell.", _BASH),
    _define("Edit", "Replace text in a file.", {**ABOUT_PATHS, "old": TEXT, "new": TEXT}),
    _define("MultiEdit", "Replace several texts in a file.", {**ABOUT_PATHS, "edits": TEXT}),
    _define("Write", "Write a whole file.", {**ABOUT_PATHS, "content": TEXT}),
    _define("NotebookEdit", "Change a cell of a notebook.", {**ABOUT_PATHS, "source": TEXT}),
    _define(
        "Patch",
        "Change several files by a patch.",
        {"patch": TEXT, "paths": TEXTS, "inside": FLAG, "secret": FLAG, "protected": FLAG},
    ),
    _define("Read", "Read a file.", ABOUT_PATHS, reads=True),
    _define("Glob", "List files by a pattern.", {**ABOUT_PATHS, "pattern": TEXT}, reads=True),
    _define("Grep", "Search in files.", {**ABOUT_PATHS, "pattern": TEXT}, reads=True),
    _define("WebFetch", "Fetch a page.", {"url": TEXT, "site": TEXT, "scheme": TEXT}, reads=True),
    _define("WebSearch", "Search the web.", {"query": TEXT}, reads=True),
    _define("Task", "Start a sub-agent, whose calls are decided like any others.", {"prompt": TEXT, "agent": TEXT}),
    _define("Mcp", "Call a tool of an MCP server.", {"server": TEXT, "tool": TEXT, "guarded": FLAG}),
    _define(OTHER, "Use a tool of the agent that the guard knows nothing about.", {"tool": TEXT}),
)
NAMES = tuple(definition["name"] for definition in DEFINITIONS)
VERBS = {
    "Bash": "ran a command",
    "Edit": "edited a file",
    "MultiEdit": "edited a file",
    "Write": "wrote a file",
    "NotebookEdit": "changed a notebook",
    "Patch": "patched files",
    "Read": "read a file",
    "Glob": "listed files",
    "Grep": "searched files",
    "WebFetch": "fetched a page",
    "WebSearch": "searched the web",
    "Task": "started a sub-agent",
    "Mcp": "called a server",
    OTHER: "did something",
}
RULES: Mapping[str, ToolRule] = {
    f"{HOST}__{definition['name']}": ToolRule(
        effect=Effect.READ if definition["annotations"] else Effect.WRITE,
        verb=f"{VERBS[definition['name']]} with",
        returns=("untrusted",) if definition["name"] in ("WebFetch", "WebSearch") else (),
        sinks=("url",) if definition["name"] == "WebFetch" else (),
    )
    for definition in DEFINITIONS
}
"""The rules of these tools, where the configuration has none."""


# Arguments


def arguments_of(name: str, said: Mapping[str, Any], rest: Mapping[str, Any], place: Workspace, dump: "Dump") -> Json:
    """The arguments of the tool of this name.

    `said` are the members of the agent's input under the names of the definitions, and `rest` its other members; `dump`
    writes a value as JSON. Raises: UnknownShape.
    """
    if not place.root.startswith("/") or not place.folder.startswith("/"):
        raise UnknownShape("the folder of the call is not an absolute path")
    _refuse_null(place.folder, *map(said.get, ("command", "folder", "pattern")), *rest.values())
    place = replace(place, resolve=cache(place.resolve))
    arguments: Json = {"options": sorted(rest), "more": dump(dict(rest)) if rest else ""}
    if name == "Bash":
        place = replace(place, folder=place.absolute(_text(said, "folder"))) if "folder" in said else place
        return arguments | _of_line(_text(said, "command"), place)
    if name == "Patch":
        return arguments | _of_patch(_text(said, "patch"), place)
    if name == "WebFetch":
        return arguments | _of_url(_text(said, "url"))
    if name == "MultiEdit":
        if not isinstance(said.get("edits"), list):
            raise UnknownShape("`edits` is not a list")
        return arguments | _of_path(said, place) | {"edits": dump(said["edits"])}
    definition = next(definition for definition in DEFINITIONS if definition["name"] == name)
    properties = definition["inputSchema"]["properties"]
    if "path" in properties:
        arguments |= _of_path(said, place, is_optional=name in ("Glob", "Grep"))
        if name in ("Glob", "Grep"):
            files = [*([said.get("pattern")] if name == "Glob" else []), *rest.values()]
            arguments |= _of_patterns([text for text in files if isinstance(text, str)], place, arguments)
    for member in properties.keys() - arguments.keys():
        arguments[member] = said[member] if properties[member] == FLAG else _text(said, member)
    return arguments


Dump = Callable[[Any], str]


def _refuse_null(*members: object) -> None:
    if any("\0" in member for member in members if isinstance(member, str)):
        raise UnknownShape("it has the character U+0000, which no path, pattern or command can contain")


def _text(said: Mapping[str, Any], member: str) -> str:
    value = said.get(member)
    if not isinstance(value, str):
        raise UnknownShape(f"`{member}` is missing" if value is None else f"`{member}` is not a text")
    return value


_TRIMMED = re.compile(r"[\s\ufeff]|.*[\s\ufeff]\Z", re.DOTALL)


def _of_path(said: Mapping[str, Any], place: Workspace, is_optional: bool = False) -> Json:
    text = "." if is_optional and said.get("path") in (None, "") else _text(said, "path")
    if not text or "\0" in text or len(text) > MAX_PATH:
        raise UnknownShape(f"`path` is empty or has more than {MAX_PATH} characters")
    if _TRIMMED.match(text):
        raise UnknownShape("`path` begins or ends with white space, which agents take away")
    path = place.absolute(text)
    seen = (path, place.resolve(path))
    is_home = text.startswith("~")  # some agents replace it by the home folder
    return {
        "path": posixpath.normpath(path),
        "inside": place.holds(path) and not is_home,
        "secret": any(map(may_hold_secrets, (text, *seen))),
        "protected": any(map(is_protected, seen)),
    }


def _of_patterns(patterns: Iterable[str], place: Workspace, path: Json) -> Json:
    """What a search looks at beside its path: by patterns for names of files, or by what the guard does not know. Very
    long ones are taken for the worst."""
    patterns = list(patterns)
    if sum(map(len, patterns)) > MAX_PATTERNS:
        return {"inside": False, "secret": True}
    folders = [posixpath.join(path["path"], re.split(r"[*?\[{]", pattern, maxsplit=1)[0]) for pattern in patterns]
    return {
        "inside": path["inside"] and all(map(place.holds, folders)),
        "secret": path["secret"]
        or any(
            may_hold_secrets(text) or may_match_secrets(text, finds_hidden=True)
            for pattern in patterns
            for part in {pattern, *re.split(r"[\s,]+", pattern)}
            for text in alternatives(part)
        ),
    }


_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])?(:[0-9]+)?([/?#][!-\[\]-~\x80-\U0010ffff]*)?"
)


def _of_url(url: str) -> Json:
    """INVARIANT: programs read such a URL in one way; they take backslashes, white space and users otherwise."""
    found = _URL.fullmatch(url)
    if found is None or (found[1].lower() in ("http", "https") and not is_host_normal((found[2] or "").lower())):
        raise UnknownShape("`url` is not SCHEME://HOST/PATH, or its host has another spelling, a user or white space")
    return {"url": url, "site": (found[2] or "").lower().strip("[]"), "scheme": found[1].lower()}


_PATCHED = re.compile(r"\*\*\* (?:(?:Add|Update|Delete) File|Move to): (.+)")
_HEADER = re.compile(r"\s*\*\*\* +[A-Z]")
_SEPARATORS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_OF_PATCHES = ("*** Begin Patch", "*** End Patch", "*** End of File")


def _of_patch(patch: str, place: Workspace) -> Json:
    """A patch in the format of Codex's `apply_patch`, which takes headers with white space around them."""
    headers = [line.strip() for line in patch.split("\n") if _HEADER.match(line)]
    found = [(header, _PATCHED.fullmatch(header)) for header in headers if header not in _OF_PATCHES]
    if unknown := [header for header, path in found if path is None]:
        raise UnknownShape(f"the patch has an unknown header, `{unknown[0][:80]}`")
    if unclear := [header for header, _ in found if _SEPARATORS.search(header)]:
        raise UnknownShape(f"the patch has a path with a control character, {unclear[0][:80]!a}")
    paths = [place.absolute(path[1].strip()) for _, path in found if path is not None]
    if len(paths) > MAX_PATCHED:
        raise UnknownShape(f"the patch names more than {MAX_PATCHED} files")
    if not paths or not patch.lstrip().startswith("*** Begin Patch"):
        raise UnknownShape("the patch names no files")
    return {
        "patch": patch,
        "paths": sorted({posixpath.normpath(path) for path in paths}),
        "inside": all(map(place.holds, paths)),
        "secret": any(may_hold_secrets(path) or may_hold_secrets(place.resolve(path)) for path in paths),
        "protected": any(is_protected(path) or is_protected(place.resolve(path)) for path in paths),
    }


def _of_line(command: str, place: Workspace) -> Json:
    line = parse_line(command, place.folder)
    commands = line.commands
    attached = [value for one in commands for value in shell_effects.attached_values(one)]
    if sum(len(value) + OF_EACH_VALUE for value in attached) > MAX_ATTACHED:
        raise UnknownShape("`command` has too many letters in its options")
    doubts = set(line.doubts)
    if any(map(shell_effects.runs_another, commands)) or any(_git_runs_programs(one, place) for one in commands):
        doubts.add(Doubt.RUNS_PROGRAM)
    if any(map(shell_effects.follows_links, commands)) or _compares_folders(commands, place):
        doubts.add(Doubt.LINKS)
    patterns = {posixpath.join(one.folder, pattern) for one in commands for pattern in one.patterns}
    matches, are_all = place.expand(sorted(patterns)[:MAX_EXPANDED])
    readers = [one for one in commands if shell_files.takes_folders(one)]
    found = place.search([search for one in readers for search in _searches(one, matches, place)])
    if len(patterns) > MAX_EXPANDED or not are_all or found is None:
        doubts.add(Doubt.MANY_FILES)
    named = [path for one in commands for path in shell_effects.named_paths(one)]
    touched = [*line.writes, *line.reads, *named]
    return {
        "command": command,
        "cwd": posixpath.normpath(place.folder),
        "programs": sorted({shell_effects.program_name(one) for one in commands}),
        "operations": sorted({shell_effects.operation(one) for one in commands}),
        "arguments": sorted({word for one in commands for word in one.arguments}),
        "writes": _normal(line.writes),
        "reads": _normal(line.reads),
        "doubts": sorted(map(str, doubts)),
        "network": str(_network(line)),
        "installs": any(map(shell_effects.installs_packages, commands)),
        "force_push": any(map(shell_effects.forces_push, commands)),
        "outside": _normal(path for path in (*touched, *matches) if not place.holds(path) and not _is_device(path)),
        "writes_outside": any(not place.holds(path) and not _is_device(path) for path in line.writes),
        "protected": _normal(path for path in touched if is_protected(path) or is_protected(place.resolve(path))),
        "secrets": sorted({*_secrets(commands, (*touched, *matches), place), *(found or ())}),
        "runs": sorted(_contents((*line.reads, *named, *matches), commands, place)),
    }


def _searches(command: SimpleCommand, matches: Iterable[str], place: Workspace) -> list[Search]:
    """The folders that the command reads as a whole, and which of their files may hold secrets. `matches` are what the
    patterns of the line stand for."""
    folders = [*shell_effects.named_paths(command), *(matches if command.patterns else ())]
    folders += [command.folder] if shell_files.reads_own_folder(command) else []

    @cache
    def are_secrets_in(folder: str) -> bool:
        return may_hold_secrets(posixpath.relpath(folder, place.root))

    def is_secret(path: str) -> bool:  # called for thousands of files
        folder, name = posixpath.split(path)
        if shell_files.CODE.fullmatch(name) or EXAMPLES.fullmatch(name):
            return False
        return (may_hold_secrets(name) or are_secrets_in(folder)) and not shell_files.leaves_out(command, name)

    return [(folder, is_secret) for folder in _normal(folders)]


def _compares_folders(commands: Iterable[SimpleCommand], place: Workspace) -> bool:
    """Whether there is a `diff` of folders, which follows the links in them."""
    compared = [one for one in commands if shell_effects.program_name(one) == "diff"]
    paths = _normal(path for one in compared for path in shell_effects.named_paths(one))
    return place.search([(path, lambda _: True) for path in paths]) != []


def _contents(paths: Iterable[str], commands: Iterable[SimpleCommand], place: Workspace) -> Iterable[str]:
    """The files that a program is told to run or is given, with their digests: an approval covers their content."""
    running = [one for one in commands if shell_effects.runs_another(one) or "/" in shell_effects.program_name(one)]
    programs = [posixpath.join(one.folder, one.program) for one in running if "/" in one.program]
    files = sorted({posixpath.normpath(path) for path in (*paths, *programs)}) if running else []
    known = [(path, place.digest(path)) for path in files[:MAX_RUN]]
    return [f"{path} {digest}" for path, digest in known if digest]


def _git_runs_programs(command: SimpleCommand, place: Workspace) -> bool:
    """Whether it is Git, and runs programs that a repository names: any in another folder than the workspace's may."""
    if shell_effects.program_name(command) != "git":
        return False
    folder, commits = place.resolve(command.folder), shell_effects.operation(command) == "git commit"
    return folder != place.resolve(place.root) or place.git_runs_programs(folder, commits)


def _network(line: ShellLine) -> shell_effects.NetworkUse:
    if any(path.startswith(("/dev/tcp/", "/dev/udp/")) for path in (*line.writes, *line.reads)):
        return shell_effects.NetworkUse.YES
    return shell_effects.most_network_use(line.commands)


def _is_device(path: str) -> bool:
    return posixpath.normpath(path) in ("/dev/null", "/dev/stdout", "/dev/stderr", "/dev/stdin")


def _normal(paths: Iterable[str]) -> list[str]:
    return sorted({posixpath.normpath(path) for path in paths})


def _secrets(commands: Iterable[SimpleCommand], paths: Iterable[str], place: Workspace) -> Iterable[str]:
    words = [word for one in commands for word in (*one.arguments, *shell_effects.attached_values(one))]
    yield from (word for word in words if may_hold_secrets(word) or may_match_secrets(word))
    for path in paths:
        if may_hold_secrets(path) or may_hold_secrets(place.resolve(path)):
            yield posixpath.normpath(path)
