"""Reads a server's entry in a client's file into what the guard's configuration needs to start or reach the server."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from mcp_guard.clients.known import USER, Host, ServerSection
from mcp_guard.clients.secret_values import is_secret
from mcp_guard.clients.variables import Dialect, ResolvedByClient, Unresolved, VariableScope, resolve, variables_in
from mcp_guard.core.host_tools import HOST
from mcp_guard.core.server_address import LOOPBACK

GUARD = "guard"
RESERVED = (GUARD, HOST)
"""Names for the guard's own tools, and for those of a coding agent (`[hooks]`)."""
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
UNDERSTOOD = frozenset(
    (
        *("type", "transport", "source", "command", "args", "env", "environment", "cwd"),
        *("url", "serverUrl", "httpUrl", "headers", "http_headers"),
    )
)
ALLOWED_TOOLS = ("includeTools", "enabled_tools")
"""Lists of the only tools that Gemini CLI and Codex use; of an empty one, none."""
REFUSED = {
    "envFile": "the guard does not read `envFile`: put its variables in `env`",
    "sandboxEnabled": "the client runs it in a sandbox, but the guard would not",
    **dict.fromkeys(
        ("disabledTools", "excludeTools", "disabled_tools", *ALLOWED_TOOLS),
        "some of its tools are disabled in the client, but the guard would list them",
    ),
    "oauth": "the client signs in to it (`oauth`): configure the guard's own sign-in, docs/howto/secrets.md",
    "auth": "the client signs in to it (`auth`): configure the guard's own sign-in, docs/howto/secrets.md",
    **dict.fromkeys(
        ("bearer_token_env_var", "env_http_headers", "env_vars"),
        "the client passes variables of its own on to it: write them into the guard's configuration, "
        "docs/howto/secrets.md",
    ),
    "headersHelper": "the client runs a program to create its headers (`headersHelper`)",
}
"""Keys that change what a server does, and that the guard cannot take over; each with the reason."""


class NotWrapped(Exception):
    """A server that stays as it is; the message says why. `is_harmless` if it may well stay beside the guard."""

    def __init__(self, reason: str, is_harmless: bool = False) -> None:
        super().__init__(reason)
        self.is_harmless = is_harmless


@dataclass(frozen=True, slots=True)
class ServerValue:
    """A variable or header. If it `is_passed`, the client resolves the text in its entry of the guard."""

    text: str
    is_passed: bool = False


@dataclass(frozen=True, slots=True)
class ClientServer:
    """One server of a client, as the guard's configuration describes it. `command` is empty if it has a `url`."""

    name: str
    upstream: str
    command: str = ""
    args: tuple[str, ...] = ()
    cwd: str = ""
    url: str = ""
    is_sse: bool = False
    values: Mapping[str, ServerValue] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    time_limits: Mapping[str, float] = field(default_factory=dict)
    """Those of the client, by their keys in the entry."""
    call_seconds: float = 0
    """How long the client waits for a call; 0 if the entry does not say."""

    @property
    def secrets(self) -> dict[str, ServerValue]:
        """Values that are secrets in plain text."""
        return {key: value for key, value in self.values.items() if not value.is_passed and is_secret(key, value.text)}


def is_switched_off(value: object) -> bool:
    return isinstance(value, dict) and (value.get("disabled") is True or value.get("enabled") is False)


@dataclass(frozen=True, slots=True)
class GuardEntry:
    """An entry that starts a guard. `config` is empty if the entry names no configuration."""

    command: str
    config: str


def plain_entry(value: dict[str, object]) -> dict[str, object]:
    """An entry as most clients have it. In others `command` is a list, and the variables are in `environment`."""
    command, environment = value.get("command"), value.get("environment")
    if isinstance(command, list) and command:
        value = {**value, "command": command[0], "args": command[1:]}
    return {**value, "env": environment} if environment is not None and "env" not in value else value


def guard_entry(value: object) -> GuardEntry | None:
    """The entry if it starts a guard, else None."""
    if not isinstance(value, dict):
        return None
    value = plain_entry(value)
    command, args = value.get("command"), value.get("args") or []
    if not isinstance(command, str) or not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        return None
    program = PurePath(command.replace("\\", "/")).name.removesuffix(".exe")
    if program != "mcp-guard" and ["-m", "mcp_guard.cli"] not in (args[:2], args[1:3]):
        return None
    for number, arg in enumerate(args):
        if arg == "--config" and number + 1 < len(args):
            return GuardEntry(command, args[number + 1])
        if arg.startswith("--config="):
            return GuardEntry(command, arg.removeprefix("--config="))
    return GuardEntry(command, "")


def upstream_name(name: str) -> str:
    """The nearest name that can prefix tool names. Raises: NotWrapped if nothing is left of it."""
    plain = re.sub(r"_{2,}", "_", re.sub(r"[^a-z0-9_-]+", "-", name.lower()))
    plain = re.sub(r"-{2,}", "-", plain)[:24].strip("-_")
    if not plain:
        raise NotWrapped("its name has no character that can prefix tool names; use letters or digits")
    return f"{plain}-server" if plain in RESERVED else plain


def numbered(name: str, number: int) -> str:
    return f"{name[: 23 - len(str(number))]}-{number}"


def read_server(name: str, value: object, section: ServerSection, host: Host) -> ClientServer:
    """The server with this entry. Raises: NotWrapped."""
    if not isinstance(value, dict):
        raise NotWrapped("it is not an object")
    if guard_entry(value):
        raise NotWrapped("it already runs a guard", is_harmless=True)
    if re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        raise NotWrapped("it contains a lone surrogate")
    if is_switched_off(value):
        raise NotWrapped("it is disabled in the client", is_harmless=True)
    for key, reason in REFUSED.items():
        if value.get(key) or (key in ALLOWED_TOOLS and value.get(key) is not None):
            raise NotWrapped(reason)
    value = plain_entry(value)
    limits = {limit: number for limit in section.client.time_limits if (number := limit.value_in(value))}
    unknown = sorted(set(value) - UNDERSTOOD - {"disabled", "enabled"} - {limit.key for limit in limits})
    notes = (f"`{', '.join(unknown)}` of `{name}` was left out: only the client uses it",) if unknown else ()
    scope = VariableScope(host.environment, host.home, section.folder if section.scope != USER else None)
    try:
        read = _read_command if value.get("command") and not value.get("httpUrl") else _read_url
        server = read(name, value, (section, scope), notes)
    except Unresolved as failure:
        raise NotWrapped(str(failure)) from None
    return replace(
        server,
        time_limits={limit.key: number for limit, number in limits.items()},
        call_seconds=max((number * limit.seconds for limit, number in limits.items() if limit.is_for_calls), default=0),
    )


def _read_command(
    name: str, value: dict[str, object], where: tuple[ServerSection, VariableScope], notes: tuple[str, ...]
) -> ClientServer:
    section, scope = where
    command, args, env = value["command"], value.get("args") or [], value.get("env") or {}
    if isinstance(command, dict):  # an older form, of Zed
        args, env, command = command.get("args") or [], command.get("env") or {}, command.get("path")
    if not isinstance(command, str) or not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        raise NotWrapped("`command` must be a string and `args` a list of strings")
    resolved = [resolve(text, section.client.dialect, scope) for text in (command, *args)]
    cwd = value.get("cwd") or ""
    if not isinstance(cwd, str):
        raise NotWrapped("`cwd` must be a string")
    return ClientServer(
        name,
        upstream_name(name),
        command=_expand_home(resolved[0], scope.home),
        args=tuple(resolved[1:]),
        cwd=str(section.folder / _expand_home(resolve(cwd, section.client.dialect, scope), scope.home)),
        values=_values(env, "env", where),
        notes=notes + _note_resolved(name, (command, *args), section.client.dialect),
    )


def _note_resolved(name: str, texts: tuple[str, ...], dialect: Dialect) -> tuple[str, ...]:
    """Names the variables only, because a secret may be beside one."""
    resolved = dict.fromkeys(f"`{variable}`" for text in texts for variable in variables_in(text, dialect))
    return (f"{', '.join(resolved)} of `{name}` is written with its current value",) if resolved else ()


def _expand_home(text: str, home: Path) -> str:
    return str(home / text[2:]) if text.startswith("~/") else text


def _read_url(
    name: str, value: dict[str, object], where: tuple[ServerSection, VariableScope], notes: tuple[str, ...]
) -> ClientServer:
    section, scope = where
    written = next((value[key] for key in ("httpUrl", "url", "serverUrl") if value.get(key)), None)
    if written is None:
        raise NotWrapped("it has neither `command` nor `url`: the client gets it from elsewhere, such as an extension")
    if not isinstance(written, str):
        raise NotWrapped("`url` must be a string")
    url = resolve(written, section.client.dialect, scope)
    if not re.match(r"https?://[^/]+", url):
        raise NotWrapped("its `url` is not http or https")
    values = _values(value.get("headers") or value.get("http_headers") or {}, "headers", where)
    if invalid := [key for key in values if not HEADER.fullmatch(key)]:
        raise NotWrapped(f"`{invalid[0]}` is not a header name")
    kind = "http" if value.get("httpUrl") else str(value.get("type") or value.get("transport") or "")
    is_sse = kind == "sse" or (not kind and urlsplit(url).path.rstrip("/").endswith("/sse"))
    if not values and (urlsplit(url).hostname or "") not in LOOPBACK:
        notes += (f"if `{name}` requires a sign-in, configure the guard's own: docs/howto/secrets.md",)
    notes += _note_resolved(name, (written,), section.client.dialect)
    return ClientServer(name, upstream_name(name), url=url, is_sse=is_sse, values=values, notes=notes)


def _values(entries: object, member: str, where: tuple[ServerSection, VariableScope]) -> dict[str, ServerValue]:
    """The variables or headers in this member of an entry. Raises: NotWrapped, Unresolved."""
    if not isinstance(entries, dict):
        raise NotWrapped(f"`{member}` must be an object")
    values = {}
    for key, value in entries.items():
        if not isinstance(value, str) or not key or "=" in key or "\0" in key:
            raise NotWrapped(f"`{key}` in `{member}` must be a string")
        values[key] = _value(key, value, where)
    return values


def _value(key: str, text: str, where: tuple[ServerSection, VariableScope]) -> ServerValue:
    section, scope = where
    if not variables_in(text, section.client.dialect):
        return ServerValue(text)
    if is_secret(key, text):
        return ServerValue(text, is_passed=True)
    try:
        return ServerValue(resolve(text, section.client.dialect, scope))
    except ResolvedByClient:
        return ServerValue(text, is_passed=True)
