"""The policies in force: loaded for the catalog of each session, and reloaded when the files change.

Files with a mistake never replace valid ones: the rejection is receipted and reported to the operator, and the set in
force stays. A listing with which a policy does not fit costs only that policy and the tools in its scope, because no
upstream must take away the tools of another (docs/decisions/0050). Files are polled by modification time and size,
outside the path of a call; a changed set is read and validated in a thread, then replaces the old one as a whole.
Sessions with the same catalog share one loaded set.
"""

import asyncio
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mcp_guard.core.decision import as_advisory
from mcp_guard.core.errors import ApprovalError, GuardError, PolicyError
from mcp_guard.core.model import (
    AdvisoryDecision,
    Call,
    Decision,
    Instance,
    Json,
    Micros,
    Mode,
    Outcome,
    RateCounter,
    Tool,
)
from mcp_guard.core.policy_approval import SetReplaced
from mcp_guard.core.rates import RateValue
from mcp_guard.core.receipt import Draft
from mcp_guard.core.visible_text import join, quote, say
from mcp_guard.policy.files import FileStamps, file_stamps

if TYPE_CHECKING:  # Cedar is imported with the first policies, while the upstreams start
    from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment
    from mcp_guard.policy.source import PolicySource


class NotApprovedYet(ApprovalError):
    """Nobody has approved any policies."""


class PoliciesInForce:
    """Implements `ports.Policies` with the last valid set. Until there is one, every call is denied, with the
    reason.

    `mode` applies to every tool without a mode of its own. `shadow` is a set whose decisions are recorded but not
    enforced.
    """

    def __init__(self, counters: tuple[RateCounter, ...], mode: Mode = Mode.ENFORCE) -> None:
        self.counters = counters
        self.mode = mode
        self._why_none = self._why_none_in_short = "the policies are not loaded yet"
        self.shadow: PolicyEngine | None = None
        self._engine: PolicyEngine | None = None

    def explain_absence(self, reason: str) -> None:
        """Say why there is no valid set, for calls that are denied until there is one."""
        self._why_none = f"the policies could not be loaded: {reason}"
        self._why_none_in_short = "the policies could not be loaded; the operator can find out why: mcp-guard doctor"

    def explain_waiting(self, reason: str) -> None:
        """Say that nobody has approved any policies yet."""
        self._why_none = reason
        self._why_none_in_short = (
            "no policies have been approved yet; the operator sees which: mcp-guard policy pending"
        )

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

    def may_reach(self, instance: Instance, tool: Tool, targets: Sequence[Json]) -> bool:
        engine = self._engine
        return engine is not None and engine.may_reach(instance, tool, targets, self.is_observed(tool))

    def why_hidden(self, instance: Instance, tool: Tool) -> str:
        if self._engine is None:
            return self._why_none
        hidden = self._engine.why_hidden(instance, tool, self.is_observed(tool))
        return hidden.reason if hidden else ""

    def hidden_although_observed(
        self, instance: Instance, tools: Callable[[], Iterable[Tool]]
    ) -> list[tuple[Tool, str]]:
        """The tools that observe mode does not list for this instance either, each with the reason."""
        if self._engine is None or not self._engine.may_hide_observed:
            return []
        observed = (tool for tool in tools() if self.is_observed(tool) and not self.may_call(instance, tool))
        return [(tool, self.why_hidden(instance, tool)) for tool in observed]

    def why_not_available(self, instance: Instance, tool: Tool | None) -> str | None:
        if self._engine is None:
            return self._why_none_in_short
        return self._engine.why_withheld(instance, tool, self.is_observed(tool)) if tool else None

    def decide(self, call: Call, counts: Mapping[str, RateValue], now: Micros) -> Decision:
        if self._engine is None:
            return Decision(Outcome.DENY, "none", reasons=(self._why_none,), counts=counts)
        decide = self._engine.observe if self.is_observed(call.tool) else self._engine.decide
        decision = decide(call, counts, now)
        return decision._replace(shadow=self._ask_shadow(call, counts, now)) if self.shadow else decision

    def _ask_shadow(self, call: Call, counts: Mapping[str, RateValue], now: Micros) -> AdvisoryDecision | None:
        """INVARIANT: the shadow's decision, or its failure, has no effect on the call."""
        assert self.shadow is not None
        return as_advisory(self.shadow.decide(call, counts, now))


POLL_SECONDS = 1.0
"""How often the files are polled. A change is read once the files have stayed the same for as long."""
Stamp = FileStamps
Key = tuple[Path, Stamp, frozenset[object]]
"""Identifies a loaded set: its path, the state of its files, and the catalog it was validated against."""


class PolicyReceipts(Protocol):
    """Where loading is receipted. `policy` is a version and its text, stored with the receipt. Raises: LedgerError."""

    async def note(self, *drafts: Draft, policy: tuple[str, Callable[[], bytes]] | None = None) -> list[int]: ...


class ApprovedSet(Protocol):
    """The set that people have approved (`[guard] policy_approval`), as of the last `refresh`.

    `texts` are its files by name; None before the first was approved, and then `why_none` says so. `identity` differs
    whenever another set was approved, or the same one again.
    """

    @property
    def texts(self) -> Mapping[str, str] | None: ...

    @property
    def identity(self) -> str: ...

    @property
    def why_none(self) -> str: ...

    async def refresh(self) -> None:
        """Raises: LedgerError."""


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
    With `approved`, policies are loaded from there, and never from the files.
    """

    def __init__(
        self,
        receipts: PolicyReceipts,
        tell: Callable[[str], None],
        *,
        policies: Path,
        shadow: Path | None = None,
        approved: ApprovedSet | None = None,
    ) -> None:
        self._policies = policies
        self._approved = approved
        self._shadow = shadow
        self._receipts = receipts
        self._tell = tell
        self._sessions: weakref.WeakSet[SessionPolicies] = weakref.WeakSet()
        self._loaded: dict[Key, PolicyEngine | GuardError] = {}
        self._receipted: dict[Path, str] = {}
        self._sources: dict[Path, PolicySource] = {}
        """The last valid policies as written, for listings that arrive while the files are invalid."""
        self._stamp: Stamp = ()
        self._last_error = ""
        self._wake = asyncio.Event()
        self._recording = asyncio.Lock()
        """INVARIANT: held from the look at what is loaded until what was missing is receipted and in `_loaded`, so that
        no set is receipted twice, and none comes into force before its receipt is durable."""

    async def load(self, session: SessionPolicies) -> bool:
        """Give a session the policies for its current catalog. Returns whether any had to be read from the files."""
        self._sessions.add(session)
        async with self._recording:
            while True:
                await self._refresh()
                self._stamp = self.file_state()
                try:
                    return await self._load(session)
                except SetReplaced:  # between the refresh and the receipt
                    continue

    async def _load(self, session: SessionPolicies) -> bool:
        """Raises: SetReplaced."""
        environment, new = session.environment(), False
        for place in self._paths():
            key = self._key(place, environment)
            rejected = isinstance(self._loaded.get(key), GuardError) and place in self._sources
            if key not in self._loaded or rejected:
                new = True
                await self._record(key, self._read_for_listing(place, environment))
        self._apply(session, environment)
        return new

    async def _refresh(self) -> None:
        if self._approved is not None:
            await self._approved.refresh()

    async def why_unusable(
        self, texts: Mapping[str, str], without_sessions: "PolicyEnvironment | None" = None
    ) -> GuardError | None:
        """Why this set cannot be loaded for the sessions that are open, or without one for what is known; None
        if it can be."""
        environments = [session.environment() for session in list(self._sessions)]
        for environment in environments or filter(None, [without_sessions]):
            read = await asyncio.to_thread(_read, self._policies, environment, texts)
            if isinstance(read, GuardError):
                return read
        return None

    def wake(self) -> None:
        """Read the files at the next opportunity, even if they seem unchanged."""
        self._wake.set()

    async def watch(self) -> None:
        """Reload whenever the files have changed, until cancelled."""
        previous: Stamp = ()
        while True:
            woken = await self._is_woken()
            with suppress(GuardError):  # calls report that the ledger cannot be read
                await self._refresh()
            stamp = self.file_state()
            if self._sessions and (woken or (stamp != self._stamp and stamp == previous)):
                await self._reload_or_report(stamp)
            elif woken:
                self._tell(
                    "no session is open: the next one loads the policies; to check them: mcp-guard policy validate"
                )
            previous = stamp

    async def _reload_or_report(self, stamp: Stamp) -> None:
        """Reload; a failure of any kind ends no session, is retried, and is reported once."""
        try:
            await self._reload(stamp)
            self._last_error = ""
        except Exception as error:
            self._stamp = ()
            if str(error) != self._last_error:
                self._last_error = str(error)
                self._tell(say("the policies were not reloaded; the current ones stay in force: {}", str(error)))

    async def _is_woken(self) -> bool:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _reload(self, stamp: Stamp) -> None:
        """Read in a thread, then update every session whose catalog has not changed meanwhile."""
        async with self._recording:
            self._stamp = stamp
            self._loaded.clear()
        for session in list(self._sessions):
            environment = session.environment()
            keys = [(place, self._key(place, environment)) for place in self._paths()]
            for place, key in keys:
                if key not in self._loaded:
                    read = await asyncio.to_thread(self._read_set, place, environment)
                    async with self._recording:
                        if key not in self._loaded:
                            await self._record(key, read)
            if [self._key(place, session.environment()) for place, _ in keys] == [key for _, key in keys]:
                version = session.in_force.version
                self._apply(session, environment)
                if session.in_force.version != version:
                    session.on_changed()
        loaded = [read for (place, *_), read in self._loaded.items() if place == self._policies]
        self._tell_reloaded([read.version for read in loaded if not isinstance(read, GuardError)])

    def _tell_reloaded(self, versions: list[str]) -> None:
        """Say what a reload has put in force; that it was rejected is said in detail."""
        for version in versions:
            self._tell(f"policies reloaded: version {version[7:19]} is in force")

    def _read_for_listing(self, place: Path, environment: "PolicyEnvironment") -> "PolicyEngine | GuardError":
        """The policies for a new listing: those in the files, or the last valid ones as far as they fit it."""
        read = self._read_set(place, environment)
        if place == self._shadow or not isinstance(read, GuardError) or isinstance(read, NotApprovedYet):
            return read
        from mcp_guard.policy.engine import load_confined
        from mcp_guard.policy.source import parse_policies, read_policies

        try:
            texts = self._texts(place)
            if texts is not None:  # which of them is in force is not for an earlier set to decide
                return load_confined(place, parse_policies(texts, environment.routes), environment)
            source = self._sources.get(place) or read_policies(place, environment.routes)
            return load_confined(place, source, environment)
        except Exception as error:
            return _as_guard_error(error)

    def _texts(self, place: Path) -> Mapping[str, str] | None:
        """The approved texts; None if those of the files count. Raises: NotApprovedYet."""
        if self._approved is None or place != self._policies:
            return None
        if self._approved.texts is None:
            raise NotApprovedYet(self._approved.why_none, "mcp-guard policy pending")
        return self._approved.texts

    def _read_set(self, place: Path, environment: "PolicyEnvironment") -> "PolicyEngine | GuardError":
        try:
            return _read(place, environment, self._texts(place))
        except NotApprovedYet as error:
            return error

    def _paths(self) -> Iterator[Path]:
        yield self._policies
        if self._shadow is not None:
            yield self._shadow

    def _key(self, place: Path, environment: "PolicyEnvironment") -> Key:
        tools = frozenset((tool.listed_as, tool.definition_hash) for tool in environment.tools)
        return (
            place,
            self._stamp,
            tools | frozenset(environment.absent) | frozenset(("quarantined", n) for n in environment.quarantined),
        )

    async def _record(self, key: Key, read: "PolicyEngine | GuardError") -> None:
        """Receipt a loaded or rejected set, tell the operator, and cache it (one catalog per path)."""
        place = key[0]
        shadow = {"shadow": True} if place == self._shadow else {}
        if isinstance(read, GuardError):
            await self._reject(read, shadow)
        else:
            if not read.problems and place == self._policies:
                self._sources[place] = read.source
            if self._receipted.get(place) != read.version:
                await self._note_loaded(read, shadow)
                self._receipted[place] = read.version
        self._loaded = {other: loaded for other, loaded in self._loaded.items() if other[0] != place}
        self._loaded[key] = read

    async def _note_loaded(self, read: "PolicyEngine", shadow: dict[str, bool]) -> None:
        broken = [str(problem) for problem in read.problems]
        drafts = [Draft("policy.rejected", {"reasons": broken, **shadow})] if broken else []
        loaded = Draft("policy.loaded", {"policy_version": read.version, "dormant": list(read.dormant), **shadow})
        await self._receipts.note(*drafts, loaded, policy=(read.version, read.material))
        if broken:
            self._tell(say("policies that do not fit the listed tools are not in force:\n{}", join("\n", broken)))
        if read.unmatched and not shadow:
            self._tell(say("names in the configuration that no tool has:\n{}", join("\n", map(str, read.unmatched))))
        if read.unmatched_arguments and not shadow:
            lines = join("\n", map(str, read.unmatched_arguments))
            self._tell(say("arguments in the configuration that their tool does not declare:\n{}", lines))
        if (broken or read.unmatched) and read.withheld and not shadow:
            names = join(", ", map(quote, sorted(read.withheld)))
            self._tell(say("denied in enforce mode until they are fixed: {}\nhint: mcp-guard policy validate", names))
        dormant = sorted(set(read.dormant) - {problem.policy for problem in read.problems})
        if dormant and not shadow:
            self._tell(f"policies waiting for tools that are not listed yet: {', '.join(dormant)}")

    async def _reject(self, why: GuardError, shadow: dict[str, bool]) -> None:
        if isinstance(why, NotApprovedYet):
            self._tell(say("every call is denied: {}", str(why)))
            return
        kept = "the current ones stay in force" if self._receipted.get(self._policies) else "every call is denied"
        what = "the shadow policies could not be loaded" if shadow else f"the policies could not be loaded; {kept}"
        self._tell(say("{}:\n{}", what, str(why)))
        if isinstance(why, PolicyError):
            await self._receipts.note(Draft("policy.rejected", {"reasons": why.message.splitlines(), **shadow}))

    def _apply(self, session: SessionPolicies, environment: "PolicyEnvironment") -> None:
        in_force = session.in_force
        read = self._loaded.get(self._key(self._policies, environment))
        if isinstance(read, NotApprovedYet):
            in_force.explain_waiting(read.message)
        elif isinstance(read, GuardError):
            in_force.explain_absence(read.message)
        elif read is not None:
            in_force.replace(read)
        if self._shadow is not None:  # an invalid shadow counts as none: it must not affect any call
            beside = self._loaded.get(self._key(self._shadow, environment))
            in_force.shadow = None if beside is None or isinstance(beside, GuardError) else beside

    def file_state(self) -> Stamp:
        """Names, modification times, sizes and inodes of the files that can be seen, and which set was approved."""
        stamp: Stamp = () if self._approved is None else ((self._approved.identity, 0, 0, 0),)
        files = (place for place in self._paths() if self._approved is None or place != self._policies)
        return stamp + tuple(found for place in files for found in file_stamps(place))


def prepare_to_load() -> None:
    """Import what the first policies need, so that they need not wait for it."""
    import mcp_guard.policy.engine  # noqa: F401


def _read(path: Path, environment: "PolicyEnvironment", texts: Mapping[str, str] | None) -> "PolicyEngine | GuardError":
    from mcp_guard.policy.engine import load_policies

    try:
        return load_policies(path, environment, texts)
    except Exception as error:
        return _as_guard_error(error)


def _as_guard_error(error: Exception) -> GuardError:
    """What keeps policies from being loaded, whatever it is: it costs the sessions with these tools their policies, so
    that every call of theirs is denied, and nobody else anything."""
    if isinstance(error, GuardError):
        return error
    hint = "please report this, with the tools' definitions"
    return PolicyError(f"the policies cannot be read for the listed tools: {error!r}", hint)
