"""The state of the upstreams, as the guards of this machine and their gateways' databases know it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mcp_guard.core.model import SECOND, Json
from mcp_guard.core.server_address import server_of
from mcp_guard.settings import UpstreamSettings
from mcp_guard.sign_ins import SignInStorage
from mcp_guard.storage.presence import GUARDS, guards_of_machine
from mcp_guard.upstream.oauth.discovery import NoToken
from mcp_guard.upstream.status_file import read_statuses
from mcp_guard.web.console import Console

UP, DOWN, PARTLY, IDLE = "up", "down", "partly up", "not started"


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """One upstream of the configuration. `sessions` is how many connections of running guards there are to it."""

    name: str
    kind: str
    where: str
    state: str
    since: str
    why: str
    next_try: str
    sessions: int
    sign_in: str
    """What a person must do so that it can be reached; empty if nothing."""


async def read_upstream_states(console: Console) -> list[UpstreamState]:
    """Raises: LedgerError, ConfigError."""
    settings = console.settings
    rows = await asyncio.to_thread(_read_rows, console)
    by_name: dict[str, list[Json]] = {}
    for row in rows:
        by_name.setdefault(str(row["upstream"]), []).append(row)
    sign_ins = await _find_sign_ins(console)
    return [
        _make_state(name, upstream, by_name.get(name, ()), sign_ins.get(name, ""))
        for name, upstream in sorted(settings.upstreams.items())
    ]


def _read_rows(console: Console) -> list[Json]:
    folder = console.settings.state_dir
    running = [guard for guard, is_running in guards_of_machine(folder).items() if is_running]
    return [row for guard in running for row in read_statuses(folder / GUARDS, guard)]


async def _find_sign_ins(console: Console) -> Mapping[str, str]:
    """By upstream that a person signs in to: what is due, if anything."""
    settings = console.settings
    storage, due = SignInStorage(settings), {}
    for name, upstream in settings.upstreams.items():
        if upstream.oauth is None or not upstream.oauth.is_interactive or upstream.as_user:
            continue
        try:
            tokens = await storage.of(name).look()
            if tokens is None:
                due[name] = "nobody has signed in"
            elif not tokens.refresh and tokens.renew_at and tokens.renew_at * SECOND < console.now():
                due[name] = "the sign-in has ended"
        except NoToken as error:
            due[name] = str(error)
    return due


def _make_state(name: str, upstream: UpstreamSettings, rows: Sequence[Json], sign_in: str) -> UpstreamState:
    kind = "HTTP" if upstream.url else "program"
    where = server_of(upstream.url) if upstream.url else " ".join(Path(word).name for word in upstream.argv[:1])
    if not rows:
        return UpstreamState(name, kind, where, IDLE, "", "", "", 0, sign_in)
    down = [row for row in rows if row["is_up"] is not True]
    state = UP if not down else DOWN if len(down) == len(rows) else PARTLY
    shown = max(down or rows, key=lambda row: float(row["since"]))
    following = max((float(row["next_try"]) for row in down), default=0.0)
    return UpstreamState(
        name,
        kind,
        where,
        state,
        _clock(min(float(row["since"]) for row in (down or rows))),
        str(shown["why"]) if down else "",
        _clock(following) if following else "",
        len(rows),
        sign_in,
    )


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
