"""The checked configuration, kept in the state folder. A guard that starts with it need not import pydantic, which
takes a third of its start-up time and a fifth of its memory.

The cache saves checking, and nothing else: the configuration is read each time, and the owners of what it names are
checked. Its first line is a digest of all that the values depend on, and of the values. A cache that differs from what
would be written now in any of that is ignored, as is one that the rules for the configuration (`ownership`) refuse.

INVARIANT: a cache is used only by a user who may write the configuration itself. So whoever can write the cache, such
as a server that runs as the guard's user, can do no more with it than without it.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from mcp_guard import __version__
from mcp_guard.config.ownership import read_own
from mcp_guard.core.approval import Route
from mcp_guard.core.canonical import Limits
from mcp_guard.core.drills import DrillRule, Drills
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.identity_provider import IdentityProvider, RoleClaim
from mcp_guard.core.model import (
    Agent,
    Effect,
    FactsRule,
    Mode,
    RateCounter,
    Redaction,
    ResourceRule,
    SequenceRule,
    StepOutcome,
    ToolRule,
)
from mcp_guard.core.people import Identity, People
from mcp_guard.core.sign_in import SignInRule
from mcp_guard.core.tool_pins import FirstUse, PinRule
from mcp_guard.files import replace_file
from mcp_guard.policy.time_of_call import find_zone
from mcp_guard.settings import (
    AgentSettings,
    ClientLimits,
    HookSettings,
    InstanceScope,
    NetworkSettings,
    NotifierSettings,
    OAuthGrant,
    OAuthSettings,
    OnCancel,
    SecretReference,
    ServeSettings,
    SessionLimits,
    Settings,
    SignalSettings,
    SignerSettings,
    SocketSettings,
    TelemetrySettings,
    UpstreamSettings,
    WebSettings,
    WitnessSettings,
)

STATE_DIR = "state"
"""The default of the key `guard.state_dir`."""
FILE = "configuration.cache"


def _dict(*members: Any) -> dict[Any, Any]:
    return dict(zip(members[::2], members[1::2], strict=True))


def _drift_rule(*members: Any) -> object:
    from mcp_guard.core.anomaly import DriftRule  # loaded only if it is configured

    return DriftRule(*members)


VALUES: tuple[type, ...] = (
    Agent, AgentSettings, ClientLimits, DrillRule, Drills, Effect, FactsRule, FirstUse, HookSettings, Identity,
    IdentityProvider, InstanceScope, Limits, Mode, NetworkSettings, NotifierSettings, OAuthGrant, OAuthSettings,
    OnCancel, People, PinRule, RateCounter, Redaction, ResourceRule, RoleClaim, Route, SecretReference, SequenceRule,
    ServeSettings, SessionLimits, Settings, SignalSettings, SignerSettings, SignInRule, SocketSettings, StepOutcome,
    TelemetrySettings, ToolRule, UpstreamSettings, WebSettings, WitnessSettings,
)  # fmt: skip
MAKERS: Mapping[str, Callable[..., Any]] = {
    "DriftRule": _drift_rule,
    "Path": Path,
    "dict": _dict,
    "frozenset": lambda *members: frozenset(members),
    "tuple": lambda *members: members,
    **{kind.__name__: kind for kind in VALUES},
}
"""What each value that is no JSON is made by, from its members in their order. Nothing else is made."""


class Checked(NamedTuple):
    """The settings of a valid configuration, and whether the cache may keep them. It may not if the configuration uses
    something deprecated, so that each start reports that."""

    settings: Settings
    may_be_kept: bool


def find_settings(path: Path, text: str) -> Settings | None:
    """The settings of a configuration with this text at `path`, if they are in its cache."""
    if not os.access(path, os.W_OK):
        return None
    try:
        state_dir = tomllib.loads(text)["guard"].get("state_dir", STATE_DIR)
        digest, values = read_own(path.resolve().parent / state_dir / FILE).split("\n", 1)
        if digest != _digest(path, text, values):
            return None
        settings = from_json(values)
        find_zone(settings.time_zone)  # which this machine may no longer know
    except (ConfigError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # `config.file` reports what is wrong with the configuration
    return settings


def store_settings(path: Path, text: str, settings: Settings) -> None:
    """Put the settings in the cache, if the guard has made its state folder, and this user may write both."""
    if os.access(path, os.W_OK) and settings.state_dir.is_dir():
        values = as_json(settings)
        with suppress(OSError):
            lines = f"{_digest(path, text, values)}\n{values}"
            replace_file(settings.state_dir / FILE, lines.encode(), exact_mode=True, durable=False)


def as_json(settings: Settings) -> str:
    return json.dumps(_pack(settings))


def from_json(values: str) -> Settings:
    settings: Settings = _unpack(json.loads(values))
    return settings


def _digest(path: Path, text: str, values: str) -> str:
    """Of a configuration and its values: what they depend on is the version, and during development the code."""
    members = [[kind.__name__, *getattr(kind, "__match_args__", ())] for kind in VALUES]
    code = [(file.name, (status := file.stat()).st_mtime_ns, status.st_size) for file in _checks()]
    all = json.dumps([__version__, members, code, str(path.resolve()), text, values])
    return hashlib.sha256(all.encode()).hexdigest()


def _checks() -> Iterable[Path]:
    return sorted(Path(__file__).parent.glob("*.py"))


def _pack(value: Any) -> Any:
    """A value as JSON: what is not JSON itself is a list of the name of its maker and its members."""
    match value:
        case Enum():
            members: Iterable[Any] = [value.value]
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return ["Path", str(value)]
        case dict():
            members = [member for pair in value.items() for member in pair]
        case tuple() | frozenset():
            members = value
        case _:
            members = [getattr(value, field.name) for field in fields(value)]
    name = type(value).__name__
    assert name in MAKERS, name
    return [name, *map(_pack, members)]


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        name, *members = value
        return MAKERS[name](*map(_unpack, members))
    return value
