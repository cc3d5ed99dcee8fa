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

from mcp_guard.core.decision import opinion
from mcp_guard.core.errors import GuardError, PolicyError
from mcp_guard.core.model import Call, Counter, Decision, Instance, Mode, Opinion, Outcome, Tool
from mcp_guard.core.rates import Value
from mcp_guard.core.receipt import Draft

if TYPE_CHECKING:  # Cedar is loaded while the upstreams answer, not before
    from mcp_guard.policy.engine import PolicyEngine, World
if TYPE_CHECKING:  # so that Cedar is loaded with the first policies, not before
    from mcp_guard.policy.engine import PolicyEngine

# The policies in force: replaced whole or not at all, while sessions go on; observed instead where so configured.


class PoliciesInForce:
    """Implements `ports.Policies` by the latest good set. Until there is one, everything is denied, with the reason.

    `mode` is that of every tool without one of its own. `shadow` is a candidate set that is asked and not obeyed.
    """

    def __init__(self, counters: tuple[Counter, ...], mode: Mode = Mode.ENFORCE) -> None:
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

    def decide(self, call: Call, counts: Mapping[str, Value]) -> Decision:
        if self._engine is None:
            return Decision(Outcome.DENY, "none", reasons=(self.why_none,), counts=counts)
        decide = self._engine.observe if self.is_observed(call.tool) else self._engine.decide
        decision = decide(call, counts)
        return replace(decision, shadow=self._ask_shadow(call, counts)) if self.shadow else decision

    def _ask_shadow(self, call: Call, counts: Mapping[str, Value]) -> Opinion | None:
        """INVARIANT: what the shadow says, or fails to say, changes nothing for the call."""
        assert self.shadow is not None
        return opinion(self.shadow.decide(call, counts))


LOOK_SECONDS = 1.0
"""How often files are looked at. What changed is read once it has been left alone for as long."""
Stamp = tuple[tuple[str, int, int, int], ...]
Key = tuple[Path, Stamp, frozenset[object]]
"""What was read: where, of which files, against which catalog."""


class Records(Protocol):
    """Where loading is receipted; a policy version's text is kept with it. Raises: LedgerError."""

    def note(self, *drafts: Draft, policy: tuple[str, bytes] | None = None) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Places:
    """Where the policies are, and those that are only asked beside them."""

    policies: Path
    shadow: Path | None = None


@dataclass(eq=False, slots=True, weakref_slot=True)
class Follower:
    """One session: its policies, what they are validated against now, and whom to tell that its tools may be others."""

    in_force: PoliciesInForce
    world: "Callable[[], World]"
    on_changed: Callable[[], None] = lambda: None


class Keeper:
    """One process's policies; `tell` speaks to the operator. It lasts as long as the process, its followers do not."""

    def __init__(self, places: Places, records: Records, tell: Callable[[str], None]) -> None:
        self._places = places
        self._records = records
        self._tell = tell
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        self._kept: dict[Key, PolicyEngine | GuardError] = {}
        self._noted: dict[Path, str] = {}
        self._good: tuple[frozenset[object], PolicyEngine] | None = None
        """The latest good policies and their catalog, for a session that begins while the files are bad."""
        self._stamp: Stamp = ()
        self._trouble = ""
        self._wake = asyncio.Event()

    def load(self, follower: Follower) -> bool:
        """Give a session the policies against its catalog as it is now. Returns whether any had to be read."""
        self._followers.add(follower)
        self._stamp = self._look()
        world, new = follower.world(), False
        for place in self._used():
            key = self._key(place, world)
            if key not in self._kept:
                new = True
                self._remember(key, _read(place, world))
        self._give(follower, world)
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
            if self._followers and (asked or (stamp != self._stamp and stamp == seen)):
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
            async with asyncio.timeout(LOOK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _reload(self, stamp: Stamp) -> None:
        """Read in a thread, then give every session its own. One whose catalog changed meanwhile has loaded anew."""
        self._stamp = stamp
        self._kept.clear()
        for follower in list(self._followers):
            world = follower.world()
            keys = [(place, self._key(place, world)) for place in self._used()]
            for place, key in keys:
                if key not in self._kept:
                    read = await asyncio.to_thread(_read, place, world)
                    if key not in self._kept:
                        self._remember(key, read)
            if [self._key(place, follower.world()) for place, _ in keys] == [key for _, key in keys]:
                version = follower.in_force.version
                self._give(follower, world)
                if follower.in_force.version != version:
                    follower.on_changed()

    def _used(self) -> Iterator[Path]:
        yield self._places.policies
        if self._places.shadow is not None:
            yield self._places.shadow

    def _key(self, place: Path, world: "World") -> Key:
        tools = frozenset((tool.listed_as, tool.definition_hash) for tool in world.tools)
        return place, self._stamp, tools | frozenset(world.absent) | frozenset(("unagreed", n) for n in world.unagreed)

    def _remember(self, key: Key, read: "PolicyEngine | GuardError") -> None:
        """Receipt what was read, tell the operator, and keep it: one catalog for each place, as they rarely differ."""
        place = key[0]
        shadow = {"shadow": True} if place == self._places.shadow else {}
        if isinstance(read, GuardError):
            self._reject(read, shadow)
        elif self._noted.get(place) != read.version:
            loaded = Draft("policy.loaded", {"policy_version": read.version, "dormant": list(read.dormant), **shadow})
            self._records.note(loaded, policy=(read.version, read.material))
            self._noted[place] = read.version
            if read.dormant and not shadow:
                self._tell(f"waiting for tools not listed yet: {', '.join(read.dormant)}")
        self._kept = {other: kept for other, kept in self._kept.items() if other[0] != place}
        self._kept[key] = read

    def _reject(self, why: GuardError, shadow: dict[str, bool]) -> None:
        kept = "the ones in force stay" if self._noted.get(self._places.policies) else "every call is denied"
        what = "the shadow policies are not loaded" if shadow else f"the policies are not loaded, {kept}"
        self._tell(f"{what}:\n{why}")
        if isinstance(why, PolicyError):
            self._records.note(Draft("policy.rejected", {"reasons": why.message.splitlines(), **shadow}))

    def _give(self, follower: Follower, world: "World") -> None:
        in_force = follower.in_force
        read = self._kept.get(self._key(self._places.policies, world))
        catalog = self._key(self._places.policies, world)[2]
        if isinstance(read, GuardError):
            in_force.why_none = f"the policies could not be loaded: {read.message}"
            if in_force.version == "none" and self._good is not None and self._good[0] == catalog:
                in_force.replace(self._good[1])
        elif read is not None:
            in_force.replace(read)
            self._good = catalog, read
        if self._places.shadow is not None:  # one that cannot be loaded is none: no call is the worse for it
            beside = self._kept.get(self._key(self._places.shadow, world))
            in_force.shadow = None if beside is None or isinstance(beside, GuardError) else beside

    def _look(self) -> Stamp:
        """Names, times, sizes and inodes of the files, as far as they can be seen."""
        found = []
        for place in self._used():
            for path in sorted(place.glob("*.cedar")) if place.is_dir() else [place]:
                try:
                    about = path.stat()
                except OSError:
                    continue  # gone while we look: that is a change, which reading will explain
                found.append((str(path), about.st_mtime_ns, about.st_size, about.st_ino))
        return tuple(found)


def _read(path: Path, world: "World") -> "PolicyEngine | GuardError":
    from mcp_guard.policy.engine import load_policies

    try:
        return load_policies(path, world)
    except GuardError as error:
        return error
