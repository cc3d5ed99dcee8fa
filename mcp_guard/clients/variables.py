"""The variables that clients put into their configuration: `${VAR}`, `${env:VAR}`, `${workspaceFolder}`, `${input:id}`.

What can be written down is resolved now. A secret, or what only the client knows, is not: in `env` or `headers` it goes
to the client's entry of the guard as it is written, so that the client still resolves it, each time.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.secret_scrubber import looks_secret

_VARIABLE = re.compile(r"\$\{([^{}]+)\}")


class Unresolved(Exception):
    """A variable that has no value that can be written down; the message says why."""


class ResolvedByClient(Unresolved):
    """One that the client can resolve for the guard, in its entry of the guard."""


@dataclass(frozen=True, slots=True)
class VariableScope:
    """What variables stand for: the environment, the user's home, the folder of the project if the file is one's."""

    environment: Mapping[str, str]
    home: Path
    project: Path | None


Dialect = Callable[[str, VariableScope], str]
"""The value of what stands between `${` and `}`. Raises: Unresolved."""


def no_variables(name: str, _: VariableScope) -> str:
    """Of a client that has none, what looks like one is text."""
    return f"${{{name}}}"


def braces(name: str, world: VariableScope) -> str:
    """`${VAR}` and `${VAR:-default}`."""
    variable, separator, default = name.partition(":-")
    return _environment(variable, world, default if separator else None)


def editor(name: str, world: VariableScope) -> str:
    """The variables of VS Code, which Cursor has too."""
    kind, _, rest = name.partition(":")
    if kind == "env":
        return _environment(rest, world)
    if name in ("workspaceFolder", "workspaceFolderBasename"):
        if world.project is None:
            raise Unresolved(f"`${{{name}}}` is another folder each time")
        return str(world.project) if name == "workspaceFolder" else world.project.name
    fixed = {"userHome": str(world.home), "pathSeparator": "/", "/": "/"}
    if name in fixed:
        return fixed[name]
    if kind == "input":
        raise ResolvedByClient(f"`${{{name}}}` is asked for by the client; put it in `env` or `headers`")
    raise ResolvedByClient(f"only the client knows what `${{{name}}}` is")


def windsurf(name: str, world: VariableScope) -> str:
    """`${env:VAR}` and `${file:PATH}`."""
    kind, _, rest = name.partition(":")
    if kind == "env":
        return _environment(rest, world)
    raise ResolvedByClient(f"only the client knows what `${{{name}}}` is")


def _environment(variable: str, world: VariableScope, default: str | None = None) -> str:
    if looks_secret(variable):
        raise ResolvedByClient(f"`{variable}` is a secret, which the guard keeps in `env` or `headers` only")
    value = world.environment.get(variable) or default
    if value is None:
        raise ResolvedByClient(f"`{variable}` is not set here")
    return value


def has_variables(text: str, dialect: Dialect) -> bool:
    return dialect is not no_variables and _VARIABLE.search(text) is not None


def resolve(text: str, dialect: Dialect, world: VariableScope) -> str:
    """The text with the values of its variables. Raises: Unresolved."""
    return _VARIABLE.sub(lambda found: dialect(found.group(1), world), text)
