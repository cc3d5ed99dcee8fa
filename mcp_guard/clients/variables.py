"""The variables that clients put into their configuration: `${VAR}`, `${env:VAR}`, `${workspaceFolder}`, `${input:id}`.

They are resolved once, when the file is wrapped, unless they stand for a secret or for something that only the client
knows. Such a one is copied as it is into `env` or `headers` of the client's entry of the guard, and the client still
resolves it at each start.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.secret_scrubber import looks_secret

_VARIABLE = re.compile(r"\$\{([^{}]+)\}")
_OPENCODE_VARIABLE = re.compile(r"\{((?:env|file):[^{}]+)\}")
_SHELL_VARIABLE = re.compile(r"\$(?:\{([^{}]+)\}|([A-Za-z_][A-Za-z0-9_]*))")


class Unresolved(Exception):
    """A variable whose value cannot be written into the configuration; the message says why."""


class ResolvedByClient(Unresolved):
    """A variable that the client can resolve in its entry of the guard."""


@dataclass(frozen=True, slots=True)
class VariableScope:
    """Where values of variables come from. `project` is None if the file belongs to no project."""

    environment: Mapping[str, str]
    home: Path
    project: Path | None


Dialect = Callable[[str, VariableScope], str]
"""Returns the value of the text between `${` and `}`. Raises: Unresolved."""


def no_variables(name: str, _: VariableScope) -> str:
    """For a client without variables: the text stays as it is."""
    return f"${{{name}}}"


def braces(name: str, scope: VariableScope) -> str:
    """`${VAR}` and `${VAR:-default}`."""
    variable, separator, default = name.partition(":-")
    return _environment(variable, scope, default if separator else None)


def shell(name: str, scope: VariableScope) -> str:
    """`$VAR`, and the forms of `braces`."""
    return braces(name, scope)


def editor(name: str, scope: VariableScope) -> str:
    """The variables of VS Code, which Cursor shares."""
    kind, _, rest = name.partition(":")
    if kind == "env":
        return _environment(rest, scope)
    if name in ("workspaceFolder", "workspaceFolderBasename"):
        if scope.project is None:
            raise Unresolved(f"`${{{name}}}` is a different folder each time")
        return str(scope.project) if name == "workspaceFolder" else scope.project.name
    fixed = {"userHome": str(scope.home), "pathSeparator": "/", "/": "/"}
    if name in fixed:
        return fixed[name]
    if kind == "input":
        raise ResolvedByClient(f"`${{{name}}}` is a prompt of the client; put it in `env` or `headers`")
    raise ResolvedByClient(f"only the client can resolve `${{{name}}}`")


def windsurf(name: str, scope: VariableScope) -> str:
    """`${env:VAR}` and `${file:PATH}`."""
    kind, _, rest = name.partition(":")
    if kind == "env":
        return _environment(rest, scope)
    raise ResolvedByClient(f"only the client can resolve `${{{name}}}`")


def opencode(name: str, scope: VariableScope) -> str:
    """`{env:VAR}` and `{file:PATH}`."""
    return windsurf(name, scope)


def _environment(variable: str, scope: VariableScope, default: str | None = None) -> str:
    if looks_secret(variable):
        raise ResolvedByClient(f"`{variable}` is a secret; the guard accepts secrets only in `env` or `headers`")
    value = scope.environment.get(variable) or default
    if value is None:
        raise ResolvedByClient(f"`{variable}` is not set here")
    return value


def _pattern(dialect: Dialect) -> re.Pattern[str]:
    patterns: Mapping[Dialect, re.Pattern[str]] = {shell: _SHELL_VARIABLE, opencode: _OPENCODE_VARIABLE}
    return patterns.get(dialect, _VARIABLE)


def variables_in(text: str, dialect: Dialect) -> list[str]:
    """The variables in the text, as they are written there."""
    return [] if dialect is no_variables else [match[0] for match in _pattern(dialect).finditer(text)]


def resolve(text: str, dialect: Dialect, scope: VariableScope) -> str:
    """The text with the values of its variables. Raises: Unresolved."""
    return _pattern(dialect).sub(lambda match: dialect(match[match.lastindex or 1], scope), text)
