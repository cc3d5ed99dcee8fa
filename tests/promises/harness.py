"""A guard in this process for tests that force races: real policies, real ledger, a recording upstream."""

import base64
import itertools
import json
import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.approval import GrantTerms, Route
from mcp_guard.core.describe import DescriptionRules
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import (
    Agent,
    Effect,
    Execution,
    ExecutionStatus,
    FactsRule,
    Instance,
    Json,
    RateCounter,
    ResourceRule,
    SequenceRule,
    Task,
    Tool,
    ToolRule,
)
from mcp_guard.core.names import listed_name
from mcp_guard.core.people import People
from mcp_guard.core.receipt import Draft
from mcp_guard.core.replies import not_sent_execution
from mcp_guard.core.sign_in import SignIn
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.guard import Guard
from mcp_guard.ledger import registry
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.keys import SigningKey
from mcp_guard.ledger.ledger import noting
from mcp_guard.ledger.open import LedgerSettings, OpenLedger, open_ledger
from mcp_guard.ledger.writer import Transaction
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_policies
from mcp_guard.policy.reload import PoliciesInForce
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Intent
from mcp_guard.settings import LEASE_SECONDS
from mcp_guard.storage.contract import Store
from mcp_guard.storage.place import Database
from mcp_guard.upstream.catalog import definition_hash
from tests.promises.engines import engine

SECOND = 1_000_000
NOW = 1_790_000_000 * SECOND
ROUTES = {"people": Route("people", ("alice", "bob", "carol", "dana"), 3600 * SECOND)}
PEOPLE = {name: name.title() for name in ("alice", "bob", "carol", "dana", "mallory")}
KEYS: dict[str, Ed25519PrivateKey] = {}
HOLD = '@id("gate") @require_approval("people") @reason("people decide") forbid (principal, action, resource);'
ALLOW = '@id("all") permit (principal, action, resource);'


class Clock:
    """A clock that advances only when a test moves it."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> int:
        self.time += 1
        return self.time

    def wall(self) -> int:
        return self.time


def make_tool(name: str, properties: Json, effect: Effect = Effect.WRITE, **rule: Any) -> Tool:
    definition = {"name": name, "inputSchema": {"type": "object", "properties": properties}}
    made = ToolRule(effect=effect, **rule)
    return Tool("crm", name, listed_name("crm", name), definition, definition_hash(definition), made, effect)


FACTS = FactsRule("get_deal", {"deal_id": "/deal_id"}, "")
DEAL = ResourceRule("Deal", "/deal_id")
SHOWN = {"Deal": ("amount", "stage", "vendor", "notes")}
PROPERTIES: Json = {"deal_id": {"type": "string"}, "amount": {"type": "number"}, "stage": {"type": "string"}}
TOOLS = (
    make_tool("get_deal", PROPERTIES, Effect.READ),
    make_tool("update_deal", PROPERTIES, resource=DEAL, facts=FACTS, ask=("ticket", "reason"), verb="updated deal"),
    make_tool("note", {"text": {"type": "string"}}),
    make_tool("purge", {}, Effect.DESTRUCTIVE),
)


@dataclass
class Recorder:
    """An in-memory upstream. `sent` is what it received; `before` runs first, to inspect or to force a race."""

    catalog: dict[str, Tool]
    facts: Json = field(default_factory=lambda: {"deal_id": "1", "amount": 100, "stage": "open"})
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    intents: list[Intent] = field(default_factory=list)
    troubles: dict[str, str] = field(default_factory=dict)
    before: Callable[[Intent], Awaitable[None]] | None = None
    agree: Callable[[Tool], None] = lambda _: None
    """Agrees to each definition as it is; a test about pins sets another."""
    reading: Callable[[], Execution] | None = None
    is_unreachable: bool = False
    """Whether calls cannot be sent."""

    def find_tool(self, listed_as: str) -> Tool | None:
        tool = self.catalog.get(listed_as)
        if tool is not None:
            self.agree(tool)
        return tool

    def tools(self) -> list[Tool]:
        return list(self.catalog.values())

    def listed(self, server: str, method: str) -> list[Json]:
        return []

    def why_quarantined(self, listed_as: str) -> str | None:
        return None

    def why_unavailable(self, server: str) -> str | None:
        return self.troubles.get(server)

    def why_absent(self, server: str) -> str | None:
        return self.troubles.get(server)

    async def why_unauthorized(self, server: str) -> str | None:
        return None

    async def execute(self, intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        if self.before is not None:
            await self.before(intent)
        self.intents.append(intent)
        if self.is_unreachable:
            return not_sent_execution("upstream `crm`: cannot be reached: refused", intent.approval)
        self.sent.append((intent.call.name, intent.call.canonical))
        if intent.call.purpose == "facts":
            if self.reading is not None:
                return self.reading()
            return Execution(ExecutionStatus.OK, {"result": {"structuredContent": dict(self.facts), "content": []}})
        return Execution(ExecutionStatus.OK, {"result": {"content": [{"type": "text", "text": "done"}]}})

    def writes(self) -> list[bytes]:
        return [arguments for name, arguments in self.sent if name != "crm__get_deal"]


@dataclass
class Harness:
    """One guard process over a ledger in `folder`."""

    folder: Path
    ledger: OpenLedger
    upstream: Recorder
    policies: PoliciesInForce
    guard: Guard
    clock: Clock

    @property
    def store(self) -> Any:
        return self.ledger.writer.store

    def receipts(self, kind: str | None = None) -> list[Json]:
        receipts = [json.loads(row.body) for row in self.store.receipts_after(-1)]
        return [receipt for receipt in receipts if kind in (None, receipt["kind"])]

    def load(self, policies: str) -> PolicyEngine:
        path = self.folder / "policies.cedar"
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_text(policies)
        draft.replace(path)  # another process of the same test may be reading it
        routes = self.ledger.approvals.routes
        ledger = self.ledger.ledger
        engine = load_policies(path, make_world(self.upstream.catalog, ledger.counters, routes, ledger.sequences))
        loaded = Draft("policy.loaded", {"policy_version": engine.version})
        with suppress(LedgerError):  # some tests use a read-only ledger
            if self.ledger.writer.read(lambda store: store.policy(engine.version)) is None:
                self.note(loaded, policy=(engine.version, engine.material))
        self.policies.replace(engine)
        return engine

    def note(self, *drafts: Draft, policy: tuple[str, Callable[[], bytes]] | None = None) -> None:
        """As `SqlLedger.note`, with or without an event loop."""
        self.ledger.writer.run(noting(*drafts, policy=policy))

    def approve(
        self,
        id: str,
        approver: str = "alice",
        verdict: str = "approve",
        terms: GrantTerms | None = None,
        rationale: str = "because",
        signed_in: SignIn | None = None,
    ) -> None:
        """Cast one person's signed vote; their key is enrolled at their first vote."""
        writer = self.ledger.writer
        private = KEYS.setdefault(approver, Ed25519PrivateKey.generate())
        new = NewKey("ed25519", private.public_key().public_bytes_raw(), {})
        votes = Votes(writer, self.ledger.approvals.routes, PEOPLE)
        statement = writer.run(votes.prepare_op(id, approver, verdict, rationale, terms, signed_in))
        if new.id not in {key.id for key in self.store.approver_keys()}:
            enrol(writer, Approver(approver, PEOPLE[approver]), new)
        votes.record(statement, new.id, {"signature": base64.b64encode(private.sign(statement.text())).decode()})

    def end(self, instance: str = "run_1") -> None:
        """End the instance."""
        self.ledger.writer.run(lambda tx: registry.close_requests_of(tx, instance, "the instance has ended"))

    def close(self) -> None:
        self.ledger.close()


def make_world(
    catalog: Mapping[str, Tool],
    counters: tuple[RateCounter, ...] = (),
    routes: Collection[str] = tuple(ROUTES),
    sequences: tuple[SequenceRule, ...] = (),
) -> PolicyEnvironment:
    attributes = {"Deal": {"amount": "number", "stage": "string"}}
    return PolicyEnvironment(tuple(catalog.values()), attributes, counters, tuple(routes), sequences=sequences)


def make_instance(id: str = "run_1", **changes: Any) -> Instance:
    agent = Agent("agent", "bob", ("workers",))
    instance = Instance(id, agent, "dana", Task("INC-1"), NOW - SECOND, NOW + 8 * 3600 * SECOND, "", f"cred_{id}")
    return replace(instance, **changes)


def open_harness(
    folder: Path,
    policies: str = ALLOW,
    counters: tuple[RateCounter, ...] = (),
    hold_seconds: float = 0.0,
    routes: Mapping[str, Route] | None = None,
    signed_by: SigningKey | None = None,
    people: People | None = None,
    database: Database | None = None,
    lease_seconds: float = LEASE_SECONDS,
    sequences: tuple[SequenceRule, ...] = (),
) -> Harness:
    """A guard on a new or shared ledger in `folder` or the database; `signed_by` is the first key of a new one."""
    clock = Clock()
    people = people or People(users=frozenset({"dana"}))
    settings = LedgerSettings(
        folder / "state",
        "test.example/ledger" if database is None else database.origin,
        routes or ROUTES,
        counters,
        people=people,
        attributes=SHOWN,
        database=database or engine().database(folder),
        lease_seconds=lease_seconds,
        sequences=sequences,
    )
    ledger = open_ledger(settings, clock)
    if signed_by is not None:
        ledger.writer.key = signed_by
    upstream = Recorder({tool.listed_as: tool for tool in TOOLS})
    pin(ledger, *TOOLS)
    upstream.agree = partial(pin, ledger)
    in_force = PoliciesInForce(counters)
    ids = itertools.count()
    prefix = ledger.guard
    guard = Guard(
        policies=in_force,
        ledger=ledger.ledger,
        approvals=ledger.approvals,
        upstreams=upstream,
        clock=ledger.writer,
        describe_with=DescriptionRules(),
        hold_seconds=hold_seconds,
        new_id=lambda: f"call_{prefix}_{next(ids)}",
    )
    harness = Harness(folder, ledger, upstream, in_force, guard, clock)
    harness.load(policies)
    return harness


def pin(ledger: OpenLedger, *tools: Tool) -> None:
    """Accept these definitions without a receipt, replacing those accepted before."""
    writer = ledger.writer

    def differing(store: Store) -> list[Tool]:
        return [tool for tool in tools if store.pinned_hash(tool.server, tool.name) != tool.definition_hash]

    def op(tx: Transaction) -> None:
        for tool in moved:
            for row in tx.store.pins(tool.server, tool.name):
                tx.store.move_pin(row, PinState.RETIRED, 0, "")
                tx.store.drop_pin(row)
            new = Pin(tool.server, tool.name, tool.definition_hash, PinState.PINNED, tool.definition, 0)
            tx.store.add_pins([new])

    with suppress(LedgerError):  # some tests use a read-only or damaged ledger
        if moved := writer.read(differing):
            writer.run(op)


def text(reply: Json) -> str:
    return str(reply["result"]["content"][0]["text"])


def pending_id(reply: Json) -> str:
    return str(reply["result"]["_meta"]["mcp-guard/decision"]["approval"])


def dumps(value: object) -> bytes:
    return orjson.dumps(value)
