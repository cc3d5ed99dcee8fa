"""What stands in a client's file for a server, read into what the guard's configuration needs to start or reach it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from mcp_guard.clients.known import USER, Host, ServerSection
from mcp_guard.clients.variables import ResolvedByClient, Unresolved, VariableScope, has_variables, resolve
from mcp_guard.core.secret_scrubber import looks_secret, password_of

GUARD = "guard"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
VARIABLES_ALONE = re.compile(r"(?:(?:bearer|basic|token) +)?(?:\$\{[^{}]*\})+", re.IGNORECASE)
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
UNDERSTOOD = frozenset(
    {"type", "transport", "command", "args", "env", "cwd", "url", "serverUrl", "httpUrl", "headers", "source"}
)
REFUSED = {
    "envFile": "the guard reads no `envFile`: give its variables in `env`",
    "sandboxEnabled": "the client runs it in a sandbox, and the guard would not",
    "disabledTools": "tools of it are switched off in the client, and the guard would offer them",
    "oauth": "the client signs in to it (`oauth`): configure the guard's own sign-in, docs/howto/secrets.md",
    "auth": "the client signs in to it (`auth`): configure the guard's own sign-in, docs/howto/secrets.md",
    "headersHelper": "a program of the client makes its headers (`headersHelper`)",
}
"""Keys without which the server would be another one behind the guard; and why that is so."""


SWITCHED_OFF = "it is switched off in the client"
ALREADY_GUARDED = "it leads to a guard already"
HARMLESS = (SWITCHED_OFF, ALREADY_GUARDED)
"""Reasons for which a server may well stay."""


class NotWrapped(Exception):
    """A server that stays as it is; the message says why."""


@dataclass(frozen=True, slots=True)
class ServerValue:
    """A variable or header: its text, or the text that the client resolves to it for the guard."""

    text: str
    is_passed: bool = False


@dataclass(frozen=True, slots=True)
class ClientServer:
    """One server of a client, for the guard's configuration. `command` is empty if it is reached at `url`."""

    name: str
    upstream: str
    command: str = ""
    args: tuple[str, ...] = ()
    cwd: str = ""
    url: str = ""
    is_sse: bool = False
    values: Mapping[str, ServerValue] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def hides_something(self) -> bool:
        """Whether what is written down of it holds a secret."""
        return bool(self.secrets) or any(secret_arguments(self.args)) or password_of(self.url) is not None

    @property
    def secrets(self) -> dict[str, ServerValue]:
        """Values that are secrets and stand there as text."""
        return {key: each for key, each in self.values.items() if not each.is_passed and is_secret(key, each.text)}


def is_switched_off(value: object) -> bool:
    return isinstance(value, dict) and (value.get("disabled") is True or value.get("enabled") is False)


def is_secret(key: str, text: str) -> bool:
    return bool(text) and (looks_secret(key) or password_of(text) is not None)


def secret_arguments(args: Sequence[str]) -> Iterator[str]:
    """The arguments of a command that hold what looks like a secret: after or in `--token`, or in an address."""
    for before, arg in pairwise(["", *args]):
        flag, _, value = arg.partition("=")
        in_itself = bool(value) and flag.startswith("-") and looks_secret(flag)
        after_flag = before.startswith("-") and "=" not in before and looks_secret(before) and not arg.startswith("-")
        if in_itself or after_flag or password_of(arg) or password_of(value):
            yield arg


def secrets_of(data: object, key: str = "") -> Iterator[str]:
    """Every text in a parsed file that looks like a secret."""
    if isinstance(data, str) and is_secret(key, data) and not VARIABLES_ALONE.fullmatch(data):
        yield data
    elif isinstance(data, dict):
        for name, each in data.items():
            yield from secrets_of(each, str(name))
    elif isinstance(data, list):
        yield from secret_arguments([each for each in data if isinstance(each, str)])
        for each in data:
            yield from secrets_of(each, key)


@dataclass(frozen=True, slots=True)
class GuardEntry:
    """An entry that starts a guard; `config` is empty where it does not say which."""

    command: str
    config: str


def guard_entry(value: object) -> GuardEntry | None:
    """What an entry says if it starts a guard, else None."""
    if not isinstance(value, dict):
        return None
    command, args = value.get("command"), value.get("args") or []
    if not isinstance(command, str) or not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        return None
    program = PurePath(command.replace("\\", "/")).name.removesuffix(".exe")
    if program != "mcp-guard" and args[:2] != ["-m", "mcp_guard.cli"]:
        return None
    for number, arg in enumerate(args):
        if arg == "--config" and number + 1 < len(args):
            return GuardEntry(command, args[number + 1])
        if arg.startswith("--config="):
            return GuardEntry(command, arg.removeprefix("--config="))
    return GuardEntry(command, "")


def upstream_name(name: str) -> str:
    """The nearest name that can prefix tools. Raises: NotWrapped if nothing is left of it."""
    plain = re.sub(r"_{2,}", "_", re.sub(r"[^a-z0-9_-]+", "-", name.lower()))
    plain = re.sub(r"-{2,}", "-", plain)[:24].strip("-_")
    if not plain:
        raise NotWrapped("nothing of its name can prefix tools; give it a name with letters or digits")
    return "guard-server" if plain == GUARD else plain


def numbered(name: str, number: int) -> str:
    return f"{name[: 23 - len(str(number))]}-{number}"


def read_server(name: str, value: object, spot: ServerSection, host: Host) -> ClientServer:
    """Raises: NotWrapped."""
    if not isinstance(value, dict):
        raise NotWrapped("it is no object")
    if guard_entry(value):
        raise NotWrapped(ALREADY_GUARDED)
    if re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        raise NotWrapped("it holds half of a character (a lone surrogate)")
    if is_switched_off(value):
        raise NotWrapped(SWITCHED_OFF)
    for key, why in REFUSED.items():
        if value.get(key):
            raise NotWrapped(why)
    unknown = sorted(set(value) - UNDERSTOOD - {"disabled", "enabled"})
    notes = (f"`{', '.join(unknown)}` of `{name}` is for the client alone and was left out",) if unknown else ()
    world = VariableScope(host.environment, host.home, spot.folder if spot.scope != USER else None)
    try:
        read = _started if value.get("command") else _reached
        return read(name, value, (spot, world), notes)
    except Unresolved as why:
        raise NotWrapped(str(why)) from None


def _started(
    name: str, value: dict[str, object], where: tuple[ServerSection, VariableScope], notes: tuple[str, ...]
) -> ClientServer:
    spot, world = where
    command, args, env = value["command"], value.get("args") or [], value.get("env") or {}
    if isinstance(command, dict):  # an older form of Zed's
        args, env, command = command.get("args") or [], command.get("env") or {}, command.get("path")
    if not isinstance(command, str) or not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        raise NotWrapped("`command` must be a text and `args` a list of texts")
    said = [resolve(text, spot.client.dialect, world) for text in (command, *args)]
    cwd = value.get("cwd") or ""
    if not isinstance(cwd, str):
        raise NotWrapped("`cwd` must be a text")
    return ClientServer(
        name,
        upstream_name(name),
        command=_home(said[0], world.home),
        args=tuple(said[1:]),
        cwd=str(spot.folder / _home(resolve(cwd, spot.client.dialect, world), world.home)),
        values=_values(env, "env", where),
        notes=notes + _resolved(name, (command, *args), said),
    )


def _resolved(name: str, texts: tuple[str, ...], said: list[str]) -> tuple[str, ...]:
    changed = [f"`{text}`" for text, now in zip(texts, said, strict=True) if text != now]
    return (f"{', '.join(changed)} of `{name}` is written with the value of today",) if changed else ()


def _home(text: str, home: Path) -> str:
    return str(home / text[2:]) if text.startswith("~/") else text


def _reached(
    name: str, value: dict[str, object], where: tuple[ServerSection, VariableScope], notes: tuple[str, ...]
) -> ClientServer:
    spot, world = where
    said = next((value[key] for key in ("url", "serverUrl", "httpUrl") if value.get(key)), None)
    if said is None:
        raise NotWrapped("it has neither `command` nor `url`: the client gets it from elsewhere, such as an extension")
    if not isinstance(said, str):
        raise NotWrapped("`url` must be a text")
    url = resolve(said, spot.client.dialect, world)
    if not re.match(r"https?://[^/]+", url):
        raise NotWrapped("its `url` is not http or https")
    values = _values(value.get("headers") or {}, "headers", where)
    if bad := [key for key in values if not HEADER.fullmatch(key)]:
        raise NotWrapped(f"`{bad[0]}` is no name of a header")
    kind = str(value.get("type") or value.get("transport") or "")
    is_sse = kind == "sse" or (not kind and urlsplit(url).path.rstrip("/").endswith("/sse"))
    if not values and (urlsplit(url).hostname or "") not in LOOPBACK:
        notes += (f"if `{name}` wants a sign-in, the guard must make it: docs/howto/secrets.md",)
    notes += _resolved(name, (said,), [url])
    return ClientServer(name, upstream_name(name), url=url, is_sse=is_sse, values=values, notes=notes)


def _values(said: object, what: str, where: tuple[ServerSection, VariableScope]) -> dict[str, ServerValue]:
    """Raises: NotWrapped, Unresolved."""
    if not isinstance(said, dict):
        raise NotWrapped(f"`{what}` must be an object")
    values = {}
    for key, value in said.items():
        if not isinstance(value, str) or not key or "=" in key or "\0" in key:
            raise NotWrapped(f"`{key}` in `{what}` must be a text")
        values[key] = _value(key, value, where)
    return values


def _value(key: str, text: str, where: tuple[ServerSection, VariableScope]) -> ServerValue:
    spot, world = where
    if not has_variables(text, spot.client.dialect):
        return ServerValue(text)
    if is_secret(key, text):
        return ServerValue(text, is_passed=True)
    try:
        return ServerValue(resolve(text, spot.client.dialect, world))
    except ResolvedByClient:
        return ServerValue(text, is_passed=True)
