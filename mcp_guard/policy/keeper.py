"""Keeps the policies in force up to date: reads them when the catalog is another one, and when their files change.

A bad set never replaces a good one: it is receipted, told to the operator, and the one in force stays. Files are looked
at by their times and sizes, off the path of a call; a set that has changed is read and validated in a thread.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mcp_guard.core.errors import GuardError, PolicyError
from mcp_guard.core.receipt import Draft
from mcp_guard.policy.in_force import PoliciesInForce

if TYPE_CHECKING:  # Cedar is loaded while the upstreams answer, not before
    from mcp_guard.policy.engine import PolicyEngine, World

LOOK_SECONDS = 1.0
"""How often files are looked at. What changed is read once it has been left alone for as long."""
Stamp = tuple[tuple[str, int, int, int], ...]


class Records(Protocol):
    """Where loading is receipted; a policy version's text is kept with it. Raises: LedgerError."""

    def note(self, *drafts: Draft, policy: tuple[str, bytes] | None = None) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Places:
    """Where the policies are, and those that are only asked beside them."""

    policies: Path
    shadow: Path | None = None


class Keeper:
    """One process's policies. `world` gives what they are validated against now, `tell` speaks to the operator.

    `on_changed` is told when other policies are in force because their files changed.
    """

    def __init__(
        self, places: Places, in_force: PoliciesInForce, records: Records, world: "Callable[[], World]",
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.on_changed: Callable[[], None] = lambda: None
        self._places = places
        self._in_force = in_force
        self._records = records
        self._world = world
        self._tell = tell
        self._loads = 0
        self._stamp: Stamp = ()
        self._wake = asyncio.Event()

    def load(self) -> bool:
        """Read everything now, against the catalog as it is now. Returns whether there are policies in force."""
        self._loads += 1
        self._stamp = self._look()
        self._take(_read(self._places.policies, self._world()))
        if self._places.shadow is not None:
            self._take_shadow(_read(self._places.shadow, self._world()))
        return self._in_force.version != "none"

    def wake(self) -> None:
        """Read the files now, whether or not they seem to have changed."""
        self._wake.set()

    async def watch(self) -> None:
        """Reload whenever the files have changed, until cancelled; begins with the first load."""
        seen: Stamp = ()
        while True:
            asked = await self._is_asked()
            stamp = self._look()
            if self._loads and (asked or (stamp != self._stamp and stamp == seen)):
                try:
                    await self._reload(stamp)
                except Exception as error:  # a reload that fails, however it does, ends no session
                    self._tell(f"the policies were not reloaded, the ones in force stay: {error}")
            seen = stamp

    async def _is_asked(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _reload(self, stamp: Stamp) -> None:
        """Read in a thread. What was read is dropped if the catalog changed meanwhile: that has read the files anew."""
        self._stamp, loads, version = stamp, self._loads, self._in_force.version
        world, shadow = self._world(), None
        read = await asyncio.to_thread(_read, self._places.policies, world)
        if self._places.shadow is not None:
            shadow = await asyncio.to_thread(_read, self._places.shadow, world)
        if loads != self._loads:
            return
        if shadow is not None:
            self._take_shadow(shadow)
        self._take(read)
        if self._in_force.version != version:
            self._tell(f"the policies were reloaded: version {self._in_force.version}")
            self.on_changed()

    def _take(self, read: "PolicyEngine | GuardError") -> None:
        if isinstance(read, GuardError):
            kept = "the ones in force stay" if self._in_force.version != "none" else "every call is denied"
            self._in_force.why_none = f"the policies could not be loaded: {read.message}"
            self._reject(f"the policies are not loaded, {kept}", read, {})
            return
        if read.version != self._in_force.version:
            loaded = Draft("policy.loaded", {"policy_version": read.version, "dormant": list(read.dormant)})
            self._records.note(loaded, policy=(read.version, read.material))
            if read.dormant:
                self._tell(f"waiting for tools not listed yet: {', '.join(read.dormant)}")
        self._in_force.replace(read)

    def _take_shadow(self, read: "PolicyEngine | GuardError") -> None:
        """A shadow that cannot be loaded is none: no call is the worse for it."""
        before, self._in_force.shadow = self._in_force.shadow, None
        if isinstance(read, GuardError):
            self._reject("the shadow policies are not loaded", read, {"shadow": True})
            return
        if before is None or read.version != before.version:
            loaded = Draft("policy.loaded", {"policy_version": read.version, "shadow": True})
            self._records.note(loaded, policy=(read.version, read.material))
        self._in_force.shadow = read

    def _reject(self, what: str, why: GuardError, fields: dict[str, bool]) -> None:
        self._tell(f"{what}:\n{why}")
        if isinstance(why, PolicyError):
            self._records.note(Draft("policy.rejected", {"reasons": why.message.splitlines(), **fields}))

    def _look(self) -> Stamp:
        """Names, times, sizes and inodes of the files, as far as they can be seen."""
        found = []
        for place in (self._places.policies, self._places.shadow):
            for path in sorted(place.glob("*.cedar")) if place and place.is_dir() else [place] if place else []:
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
