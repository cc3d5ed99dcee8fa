"""The accepted tool definitions, shared by every process on one ledger. Implements `ports.Pins`.

A listing is judged in one transaction: a tool that was never seen is pinned or quarantined as `first_use` says, one
that differs from its pin is quarantined, and each gets its receipt, once for all processes. Only an operator can pin a
definition in place of another (promise P6). A listing may be partial, because the client lacks a capability; so the
capabilities that an upstream was listed for are kept, and the first listing for another one is a first listing too.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial

from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json, Tool
from mcp_guard.core.names import listed_name
from mcp_guard.core.receipt import Draft
from mcp_guard.core.tool_pins import FirstUse, Pin, PinRule, PinState, Quarantine, differing_members, hashed_members
from mcp_guard.core.visible_text import say, visible
from mcp_guard.ledger.writer import Op, Transaction, Writer
from mcp_guard.storage.contract import Store

MAX_IDLE_DEFINITIONS = 8
"""How many unpinned definitions of one tool are kept, so that an upstream cannot fill the ledger with them."""

MAX_PINNED_PER_RECEIPT = 200
"""How many tools one `catalog.pinned` receipt names, so that it stays within the limits of a receipt."""

MAX_NAMED_MEMBERS = 20
"""How many differing members a receipt names."""


LISTED_FOR = "listed-for:"
"""Under this and its name, the ledger notes the capabilities of the clients that an upstream was listed for."""


def _listed_for(upstream: str, store: Store) -> frozenset[str] | None:
    """None if it was never listed, or only by a release that did not note this."""
    noted = store.noted(LISTED_FOR + upstream)
    return None if noted is None else frozenset(json.loads(noted))


class ToolPins:
    """The pins of one ledger; `rules` by upstream, and `tell` reports to the operator."""

    def __init__(self, writer: Writer, rules: Mapping[str, PinRule], tell: Callable[[str], None]) -> None:
        self._writer = writer
        self._rules = rules
        self._tell = tell
        self._seen: int | None = None
        self._pinned: dict[str, tuple[str, str]] = {}
        """Upstream and name of each tool that has an accepted definition, by listed name."""
        self._known: set[str] = set()
        self._listed_for: dict[str, frozenset[str] | None] = {}
        """As last read, by upstream. It only grows."""

    async def have_changed(self) -> bool:
        """Whether anything was recorded of any definition since the last judgement. Raises: LedgerError."""
        return await self._writer.query(lambda store: store.pin_generation()) != self._seen

    def known(self) -> AbstractSet[str]:
        return self._known

    async def retained(self, listed: Collection[str]) -> list[tuple[str, Json]]:
        def read(store: Store) -> list[tuple[str, Json]]:
            unlisted = [self._pinned[name] for name in sorted(self._pinned.keys() - set(listed))]
            pins = [pin for upstream, tool in unlisted for pin in store.pins(upstream, tool)]
            return [(pin.upstream, pin.definition) for pin in pins if pin.state is PinState.PINNED]

        return await self._writer.query(read) if self._pinned.keys() - set(listed) else []

    async def accepted(self, server: str) -> dict[str, Pin]:
        rows = await self._writer.query(lambda store: store.pins(server))
        return {row.tool: row for row in rows if row.state is PinState.PINNED}

    async def judge(self, tools: Sequence[Tool], capabilities: AbstractSet[str] = frozenset()) -> dict[str, Quarantine]:
        """Those of the listed tools that must not be used, by listed name. Raises: LedgerError."""
        states = await self._look(tools)
        unsettled = [tool for tool in tools if states[tool.listed_as] in (None, PinState.RETIRED)]
        upstreams = {tool.server for tool in tools}
        if unsettled or await self._have_new(upstreams, capabilities):
            for note in await self._writer.submit(lambda tx: self._settle_all(tx, unsettled, upstreams, capabilities)):
                self._tell(note)
            states = await self._look(tools)
        kept_out = [tool for tool in tools if states[tool.listed_as] is not PinState.PINNED]
        return await self._writer.query(lambda store: {tool.listed_as: _quarantine(store, tool) for tool in kept_out})

    async def _have_new(self, upstreams: Collection[str], capabilities: AbstractSet[str]) -> bool:
        """Whether some of these upstreams were not listed for a client with these capabilities before."""
        for upstream in upstreams:
            if upstream not in self._listed_for:
                self._listed_for[upstream] = await self._writer.query(partial(_listed_for, upstream))
            if (known := self._listed_for[upstream]) is None or not capabilities <= known:
                return True
        return False

    async def _look(self, tools: Sequence[Tool]) -> dict[str, PinState | None]:
        """The state of each definition; `have_changed` detects whatever is recorded after this."""
        self._seen, rows = await self._writer.query(lambda store: (store.pin_generation(), store.pin_states()))
        states = {(upstream, tool, hash): state for upstream, tool, hash, state in rows}
        names = {pair: listed_name(*pair) for pair in {(upstream, tool) for upstream, tool, _, _ in rows}}
        self._known = set(names.values())
        self._pinned = {
            names[upstream, tool]: (upstream, tool)
            for upstream, tool, _, state in rows
            if state is PinState.PINNED and upstream in self._rules
        }
        return {tool.listed_as: states.get((tool.server, tool.name, tool.definition_hash)) for tool in tools}

    def _settle_all(
        self, tx: Transaction, tools: Sequence[Tool], upstreams: Collection[str], capabilities: AbstractSet[str]
    ) -> list[str]:
        """Decide on new definitions; returns messages for the operator."""
        firsts: dict[str, list[Pin]] = {upstream: [] for upstream in self._trusting(tx, capabilities)}
        known = {(upstream, tool) for upstream, tool, _, _ in tx.store.pin_states()}
        notes = [self._settle(tx, tool, firsts, (tool.server, tool.name) in known) for tool in tools]
        for upstream, pins in firsts.items():
            for start in range(0, len(pins), MAX_PINNED_PER_RECEIPT):
                some = pins[start : start + MAX_PINNED_PER_RECEIPT]
                hashes = {listed_name(upstream, pin.tool): pin.hash for pin in some}
                fields = {"upstream": upstream, "definitions": hashes, "capabilities": sorted(capabilities)}
                seq = tx.add(Draft("catalog.pinned", fields))
                tx.store.add_pins(replace(pin, receipt=seq) for pin in some)
        for upstream in upstreams:
            together = frozenset(capabilities) | (_listed_for(upstream, tx.store) or frozenset())
            tx.store.note(LISTED_FOR + upstream, json.dumps(sorted(together)))
            self._listed_for[upstream] = together
        return [note for note in notes if note]

    def _trusting(self, tx: Transaction, capabilities: AbstractSet[str]) -> list[str]:
        """Upstreams whose new tools are pinned now."""
        seen = tx.store.pin_upstreams()

        def is_first_listing(upstream: str) -> bool:
            known = _listed_for(upstream, tx.store)
            return upstream not in seen or (known is not None and not capabilities <= known)

        return [
            upstream
            for upstream, rule in self._rules.items()
            if rule.first_use is FirstUse.PIN or (rule.first_use is FirstUse.LISTING and is_first_listing(upstream))
        ]

    def _settle(self, tx: Transaction, tool: Tool, firsts: dict[str, list[Pin]], is_known: bool) -> str:
        """Decide on one. A tool pinned on first sight is added to `firsts`, which has the trusted upstreams."""
        rows = tx.store.pins(tool.server, tool.name) if is_known else []
        this = next((row for row in rows if row.hash == tool.definition_hash), None)
        if this is not None and this.state is not PinState.RETIRED:
            return ""  # another process was first
        new = Pin(tool.server, tool.name, tool.definition_hash, PinState.QUARANTINED, self._covered(tool), -1)
        if not rows:
            return self._use_first(tx, new, firsts)
        # INVARIANT: a tool that was refused or quarantined does not become new because its definition changed.
        before = next((row for row in rows if row.state is PinState.PINNED), rows[-1])
        members = differing_members(before.definition, new.definition)
        fields = {"pinned": before.hash if before.state is PinState.PINNED else None, "members": _named(members)}
        draft = Draft("catalog.changed", _about(new) | fields)
        return _keep_out(tx, new, draft, f"its {_join(members)} changed since it was {before.state}", this)

    def _use_first(self, tx: Transaction, new: Pin, firsts: dict[str, list[Pin]]) -> str:
        from mcp_guard.core.hidden_characters import find_hidden  # most listings hold nothing new

        first_use = self._rules[new.upstream].first_use
        hidden = list(find_hidden(new.definition))
        about = _about(new) | {"first_use": str(first_use)}
        about |= {
            "findings": [f"{finding.check}: {finding.where}: {finding.what}" for finding in hidden[:MAX_NAMED_MEMBERS]]
        }
        if new.upstream in firsts and not hidden:
            firsts[new.upstream].append(replace(new, state=PinState.PINNED, why="on first sight"))
            return ""
        if first_use is FirstUse.REFUSE:
            new = replace(new, state=PinState.REFUSED)
            return _keep_out(tx, new, Draft("catalog.refused", about), "it is new, and first_use is `refuse`")
        reason = f"it hides characters in {hidden[0].where}: {hidden[0].what}" if hidden else "it is new"
        return _keep_out(tx, new, Draft("catalog.quarantined", about), reason)

    def _covered(self, tool: Tool) -> Json:
        return hashed_members(tool.definition, self._rules[tool.server].unpinned)


def _keep_out(tx: Transaction, new: Pin, draft: Draft, reason: str, retired: Pin | None = None) -> str:
    seq = tx.add(draft)
    if retired is None:
        tx.store.add_pins([replace(new, receipt=seq, why=reason)])
    else:
        tx.store.move_pin(retired, new.state, seq, reason)
    idle = [row for row in tx.store.pins(new.upstream, new.tool) if row.state is not PinState.PINNED]
    for row in idle[:-MAX_IDLE_DEFINITIONS]:
        tx.store.drop_pin(row)
    verb = "diff" if draft.kind == "catalog.changed" else "show"
    listed_as = listed_name(new.upstream, new.tool)
    return say("`{0}` is {1}: {2}\nhint: mcp-guard tools {3} {0}", listed_as, str(new.state), reason, verb)


def _about(pin: Pin) -> Json:
    return {"upstream": pin.upstream, "tool": listed_name(pin.upstream, pin.tool), "definition": pin.hash}


def _named(members: Sequence[str]) -> list[str]:
    return [visible(member[:80]) for member in members[:MAX_NAMED_MEMBERS]]


def _join(members: Sequence[str]) -> str:
    return ", ".join(_named(members)) or "definition"


def _quarantine(store: Store, tool: Tool) -> Quarantine:
    rows = store.pins(tool.server, tool.name)
    why = next((row.why for row in rows if row.hash == tool.definition_hash), "it is new")
    state = next((row.state for row in rows if row.hash == tool.definition_hash), PinState.QUARANTINED)
    pinned = next((row.definition for row in rows if row.state is PinState.PINNED), None)
    return Quarantine(f"{state}: {why}", pinned)


# Decisions of an operator


def accept(writer: Writer, shown: Pin, operator: str, why: str) -> Pin:
    """Pin the definition that the operator was shown, in place of the last. Raises: ApprovalError, LedgerError."""
    return writer.run(accept_op(shown, operator, why))


def accept_op(shown: Pin, operator: str, why: str, more: Json | None = None) -> Op[Pin]:
    """As `accept`; `more` are further fields of the receipt."""

    def op(tx: Transaction) -> Pin:
        this = _as_shown(tx, shown, "accepted")
        before = next((r for r in tx.store.pins(this.upstream, this.tool) if r.state is PinState.PINNED), None)
        members = _named(differing_members(before.definition, this.definition)) if before else []
        fields = _decision_fields(this, operator, why) | {"pinned": before.hash if before else None, "members": members}
        seq = tx.add(Draft("catalog.accepted", fields | (more or {})))
        if before:
            tx.store.move_pin(before, PinState.RETIRED, seq, f"replaced by {this.hash[7:19]}")
        tx.store.move_pin(this, PinState.PINNED, seq, f"accepted by {operator}: {why}")
        return replace(this, state=PinState.PINNED, receipt=seq)

    return op


def refuse(writer: Writer, shown: Pin, operator: str, why: str) -> Pin:
    """Refuse the definition that the operator was shown, even if it is pinned. Raises: ApprovalError, LedgerError."""
    return writer.run(refuse_op(shown, operator, why))


def refuse_op(shown: Pin, operator: str, why: str, more: Json | None = None) -> Op[Pin]:
    """As `refuse`; `more` are further fields of the receipt."""

    def op(tx: Transaction) -> Pin:
        this = _as_shown(tx, shown, "refused")
        fields = _decision_fields(this, operator, why) | {"was": str(this.state)}
        seq = tx.add(Draft("catalog.refused", fields | (more or {})))
        tx.store.move_pin(this, PinState.REFUSED, seq, f"refused by {operator}: {why}")
        return replace(this, state=PinState.REFUSED, receipt=seq)

    return op


def _decision_fields(pin: Pin, operator: str, why: str) -> Json:
    return _about(pin) | {"by": operator, "note": why}


def _as_shown(tx: Transaction, shown: Pin, verb: str) -> Pin:
    """The row, if its state is still the one shown. Raises: ApprovalError."""
    rows = tx.store.pins(shown.upstream, shown.tool)
    this = next((row for row in rows if row.hash == shown.hash), None)
    if this is None or this.state is not shown.state:
        state = this.state if this else "forgotten"
        raise ApprovalError(
            f"`{listed_name(shown.upstream, shown.tool)}`: this definition cannot be {verb}: it is now {state}",
            "see its current state: mcp-guard tools list",
        )
    return this
