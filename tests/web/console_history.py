"""A week of calls for pictures of the console, written by the guard's own writer with a clock of its own."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import (
    Agent,
    Call,
    Decision,
    Effect,
    Execution,
    ExecutionStatus,
    Instance,
    Outcome,
    ResourceRule,
    Risk,
    Signal,
    Task,
    Tool,
    ToolCallRequest,
    ToolRule,
)
from mcp_guard.core.receipt import decision_draft, intent_draft, outcome_draft
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.writer import Transaction

DAYS, HOUR = 7, 3600 * 1_000_000
VERSION = "sha256:" + "5f" * 32
PEOPLE = ("dana", "erik", "fatima")
AGENTS = (
    Agent("deal-update-agent", "bob", ("crm-agents",)),
    Agent("invoice-agent", "carol", ("finance",)),
    Agent("support-agent", "dave", ("support",)),
)
DEAL = ToolRule(resource=ResourceRule("Deal", "/deal_id"), verb="updated deal")
TOOLS = (
    Tool("crm", "update_deal", "crm__update_deal", {}, "sha256:" + "a1" * 32, DEAL, Effect.WRITE),
    Tool("crm", "send_mail", "crm__send_mail", {}, "sha256:" + "b2" * 32, ToolRule(), Effect.WRITE),
    Tool("billing", "refund", "billing__refund", {}, "sha256:" + "c3" * 32, DEAL, Effect.DESTRUCTIVE),
)
DENIALS = (
    ("no-edits-of-protected-fields", "billing_contact_email and discount_rate may not be edited by agents"),
    ("business-hours-only", "refunds are made on working days from 8 to 18"),
    ("no-mail-to-strangers", "the address was first seen in untrusted content"),
)
RISKS = (
    Risk(5, "low", ()),
    Risk(40, "medium", (Signal("sensitive_field", 40, "changes sensitive fields: `discount_rate`"),)),
    Risk(75, "high", (Signal("untrusted_destination", 75, "the destination came from untrusted content"),)),
)
APPROVAL = {"id": "ap_history", "approvers": [{"approver": "alice", "name": "Alice", "rationale": "Contract seen."}]}


@dataclass
class PastClock:
    """Stands at a time until it is set to another one."""

    at: int

    def now(self) -> int:
        return self.at

    def wall(self) -> int:
        return self.at


def write_history(state: Path, origin: str, calls: int = 900) -> None:
    """In a new ledger in the folder `state`: more by day than by night, a few of them denied, approved or failed."""
    chance, now = random.Random(7), time.time_ns() // 1000
    times = sorted(_time(chance, now) for _ in range(calls))
    clock = PastClock(times[0])
    writer = open_writer(LedgerSettings(state, origin, unsafe_skip_fsync=True), clock)
    runs = [_instance(number, clock.at) for number in range(24)]
    for number, at in enumerate(times):
        clock.at = at
        call = _call(chance, runs[chance.randrange(len(runs))], number, at)
        kind = chance.choices(("allowed", "denied", "approved", "failed"), (78, 9, 10, 3))[0]
        writer.run(lambda tx, call=call, kind=kind: _record(tx, chance, call, kind))  # type: ignore[misc]
    writer.store.close()


def _time(chance: random.Random, now: int) -> int:
    while True:
        at = now - HOUR // 60 - chance.randrange(DAYS * 24 * HOUR)
        hour = at // HOUR % 24
        if chance.random() < (1.0 if 8 <= hour < 18 else 0.18):
            return at


def _instance(number: int, started: int) -> Instance:
    agent = AGENTS[number % len(AGENTS)]
    task = Task(f"INC-{4400 + number}", "quarter-end clean-up" if number % 4 == 0 else None)
    id = f"run_2026_01_{1 + number:02}_09_15Z_{number:04x}ab"
    return Instance(id, agent, PEOPLE[number % 3], task, started, 1 << 60, "", f"cred_{number}")


def _call(chance: random.Random, instance: Instance, number: int, at: int) -> Call:
    tool = TOOLS[chance.choices(range(3), (6, 3, 1))[0]]
    arguments = {"deal_id": str(600 + chance.randrange(300)), "amount": chance.randrange(500, 60000)}
    request = ToolCallRequest(tool.listed_as, arguments)
    call = describe(DescriptionRules(), f"call_{at:x}{number:04x}", instance, request, tool)
    return call._replace(risk=RISKS[chance.choices(range(3), (85, 12, 3))[0]])


def _record(tx: Transaction, chance: random.Random, call: Call, kind: str) -> None:
    allowed = Decision(Outcome.ALLOW, VERSION, ("work-on-deals",))
    if kind == "denied":
        policy, reason = chance.choice(DENIALS)
        tx.add(decision_draft(call, allowed._replace(outcome=Outcome.DENY, policies=(policy,), reasons=(reason,))))
        return
    held = allowed._replace(outcome=Outcome.REQUIRE_APPROVAL, policies=("closing-needs-approval",))
    approval = APPROVAL if kind == "approved" else None
    intent = tx.add(intent_draft(call, held if approval else allowed, approval))
    status = ExecutionStatus.OK
    if kind == "failed":
        status = chance.choice((ExecutionStatus.TOOL_ERROR, ExecutionStatus.TIMEOUT, ExecutionStatus.UPSTREAM_ERROR))
    detail = "" if status is ExecutionStatus.OK else "the server did not answer within 30 s"
    tx.add(outcome_draft(call, intent, Execution(status, {"result": {}}, detail)))
