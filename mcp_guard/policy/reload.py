"""Keeps the policies of one process up to date: read when a session's catalog is another one, and when files change.

A bad set never replaces a good one: it is receipted, told to the operator, and the one in force stays. Files are looked
at by their times and sizes, off the path of a call; a set that has changed is read and validated in a thread. Sessions
with the same catalog share what was read.
"""

import asyncio
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mcp_guard.core.decision import as_advisory
from mcp_guard.core.errors import GuardError, PolicyError
from mcp_guard.core.model import AdvisoryDecision, Call, Decision, Instance, Mode, Outcome, RateCounter, Tool
from mcp_guard.core.rates import RateValue
from mcp_guard.core.receipt import Draft

if TYPE_CHECKING:  # Cedar is loaded while the upstreams answer, not before
    from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment
if TYPE_CHECKING:  # so that Cedar is loaded with the first policies, not before
    from mcp_guard.policy.engine import PolicyEngine

# The policies in force: replaced whole or not at all, while sessions go on; observed instead where so configured.


class PoliciesInForce:
    """Implements `ports.Policies` by the latest good set. Until there is one, everything is denied, with the reason.

    `mode` is that of every tool without one of its own. `shadow` is a candidate set that is asked and not obeyed.
    """

    def __init__(self, counters: tuple[RateCounter, ...], mode: Mode = Mode.ENFORCE) -> None:
        self.counters = counters
        self.mode = mode
        self.why_none = "the policies are not loaded yet"
        self.shadow: PolicyEngine | None = None
        self._engine: PolicyEngine | None = None

    def replace(self, engine: "PolicyEngine") -> None:
        self._engine = engine

    @property
    def version(self) -> str:
        return self._engine.version if self._engine else "none"

    @property
    def may_hold(self) -> bool:
        return self._engine is not None and self._engine.may_hold

    def is_observed(self, tool: Tool | None) -> bool:
        return ((tool.rule.mode if tool else None) or self.mode) is Mode.OBSERVE

    def may_call(self, instance: Instance, tool: Tool) -> bool:
        return self._engine is not None and self._engine.may_call(instance, tool, self.is_observed(tool))

    def decide(self, call: Call, counts: Mapping[str, RateValue]) -> Decision:
        if self._engine is None:
            return Decision(Outcome.DENY, "none", reasons=(self.why_none,), counts=counts)
        decide = self._engine.observe if self.is_observed(call.tool) else self._engine.decide
        decision = decide(call, counts)
        return replace(decision, shadow=self._ask_shadow(call, counts)) if self.shadow else decision

    def _ask_shadow(self, call: Call, counts: Mapping[str, RateValue]) -> AdvisoryDecision | None:
        """INVARIANT: what the shadow says, or fails to say, changes nothing for the call."""
        assert self.shadow is not None
        return as_advisory(self.shadow.decide(call, counts))


POLL_SECONDS = 1.0
"""How often files are looked at. What changed is read once it has been left alone for as long."""
Stamp = tuple[tuple[str, int, int, int], ...]
Key = tuple[Path, Stamp, frozenset[object]]
"""What was read: where, of which files, against which catalog."""


class PolicyReceipts(Protocol):
    """Where loading is receipted; a policy version's text is kept with it. Raises: LedgerError."""

    def note(self, *drafts: Draft, policy: tuple[str, bytes] | None = None) -> list[int]: ...


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class SessionPolicies:
    """The policies of one session: what is in force, and what new ones are validated against.

    `on_changed` is called after a reload that may have changed the tools this session is allowed to see.
    """

    in_force: PoliciesInForce
    environment: "Callable[[], PolicyEnvironment]"
    on_changed: Callable[[], None] = lambda: None


class PolicyReloader:
    """Loads policies for the sessions of one process and reloads them when the files change.

    `tell` writes a message for the operator. Sessions are held by weak references: the reloader outlives them.
    """

    def __init__(
        self, receipts: PolicyReceipts, tell: Callable[[str], None], *, policies: Path, shadow: Path | None = None
    ) -> None:
        self._policies = policies
        self._shadow = shadow
        self._receipts = receipts
        self._tell = tell
        self._sessions: weakref.WeakSet[SessionPolicies] = weakref.WeakSet()
        self._loaded: dict[Key, PolicyEngine | GuardError] = {}
        self._noted: dict[Path, str] = {}
        self._good: tuple[frozenset[object], PolicyEngine] | None = None
        """The latest good policies and their catalog, for a session that begins while the files are bad."""
        self._stamp: Stamp = ()
        self._trouble = ""
        self._wake = asyncio.Event()

    def load(self, session: SessionPolicies) -> bool:
        """Give a session the policies against its catalog as it is now. Returns whether any had to be read."""
        self._sessions.add(session)
        self._stamp = self._look()
        environment, new = session.environment(), False
        for place in self._paths():
            key = self._key(place, environment)
            if key not in self._loaded:
                new = True
                self._remember(key, _read(place, environment))
        self._give(session, environment)
        return new

    def wake(self) -> None:
        """Read the files now, whether or not they seem to have changed."""
        self._wake.set()

    async def watch(self) -> None:
        """Reload whenever the files have changed, until cancelled."""
        seen: Stamp = ()
        while True:
            asked = await self._is_asked()
            stamp = self._look()
            if self._sessions and (asked or (stamp != self._stamp and stamp == seen)):
                await self._try_reload(stamp)
            seen = stamp

    async def _try_reload(self, stamp: Stamp) -> None:
        """A reload that fails, however it does, ends no session. It is tried again, and told once."""
        try:
            await self._reload(stamp)
            self._trouble = ""
        except Exception as error:
            self._stamp = ()
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._tell(f"the policies were not reloaded, the ones in force stay: {error}")

    async def _is_asked(self) -> bool:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _reload(self, stamp: Stamp) -> None:
        """Read in a thread, then give every session its own. One whose catalog changed meanwhile has loaded anew."""
        self._stamp = stamp
        self._loaded.clear()
        for session in list(self._sessions):
            environment = session.environment()
            keys = [(place, self._key(place, environment)) for place in self._paths()]
            for place, key in keys:
                if key not in self._loaded:
                    read = await asyncio.to_thread(_read, place, environment)
                    if key not in self._loaded:
                        self._remember(key, read)
            if [self._key(place, session.environment()) for place, _ in keys] == [key for _, key in keys]:
                version = session.in_force.version
                self._give(session, environment)
                if session.in_force.version != version:
                    session.on_changed()

    def _paths(self) -> Iterator[Path]:
        yield self._policies
        if self._shadow is not None:
            yield self._shadow

    def _key(self, place: Path, environment: "PolicyEnvironment") -> Key:
        tools = frozenset((tool.listed_as, tool.definition_hash) for tool in environment.tools)
        return (
            place,
            self._stamp,
            tools | frozenset(environment.absent) | frozenset(("unagreed", n) for n in environment.unagreed),
        )

    def _remember(self, key: Key, read: "PolicyEngine | GuardError") -> None:
        """Receipt what was read, tell the operator, and keep it: one catalog for each place, as they rarely differ."""
        place = key[0]
        shadow = {"shadow": True} if place == self._shadow else {}
        if isinstance(read, GuardError):
            self._reject(read, shadow)
        elif self._noted.get(place) != read.version:
            loaded = Draft("policy.loaded", {"policy_version": read.version, "dormant": list(read.dormant), **shadow})
            self._receipts.note(loaded, policy=(read.version, read.material))
            self._noted[place] = read.version
            if read.dormant and not shadow:
                self._tell(f"waiting for tools not listed yet: {', '.join(read.dormant)}")
        self._loaded = {other: kept for other, kept in self._loaded.items() if other[0] != place}
        self._loaded[key] = read

    def _reject(self, why: GuardError, shadow: dict[str, bool]) -> None:
        kept = "the ones in force stay" if self._noted.get(self._policies) else "every call is denied"
        what = "the shadow policies are not loaded" if shadow else f"the policies are not loaded, {kept}"
        self._tell(f"{what}:\n{why}")
        if isinstance(why, PolicyError):
            self._receipts.note(Draft("policy.rejected", {"reasons": why.message.splitlines(), **shadow}))

    def _give(self, session: SessionPolicies, environment: "PolicyEnvironment") -> None:
        in_force = session.in_force
        read = self._loaded.get(self._key(self._policies, environment))
        catalog = self._key(self._policies, environment)[2]
        if isinstance(read, GuardError):
            in_force.why_none = f"the policies could not be loaded: {read.message}"
            if in_force.version == "none" and self._good is not None and self._good[0] == catalog:
                in_force.replace(self._good[1])
        elif read is not None:
            in_force.replace(read)
            self._good = catalog, read
        if self._shadow is not None:  # one that cannot be loaded is none: no call is the worse for it
            beside = self._loaded.get(self._key(self._shadow, environment))
            in_force.shadow = None if beside is None or isinstance(beside, GuardError) else beside

    def _look(self) -> Stamp:
        """Names, times, sizes and inodes of the files, as far as they can be seen."""
        found = []
        for place in self._paths():
            for path in sorted(place.glob("*.cedar")) if place.is_dir() else [place]:
                try:
                    about = path.stat()
                except OSError:
                    continue  # gone while we look: that is a change, which reading will explain
                found.append((str(path), about.st_mtime_ns, about.st_size, about.st_ino))
        return tuple(found)


def _read(path: Path, environment: "PolicyEnvironment") -> "PolicyEngine | GuardError":
    from mcp_guard.policy.engine import load_policies

    try:
        return load_policies(path, environment)
    except GuardError as error:
        return error
