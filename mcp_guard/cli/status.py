"""`mcp-guard status`: show the ledger and its head, policies, running guards, pending approvals and the last calls."""

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mcp_guard.cli.approvals import left
from mcp_guard.cli.configured_names import describe_unseen
from mcp_guard.cli.hidden_tools import can_load_policies, find_hidden
from mcp_guard.cli.ledger_reader import ChosenLedger, Receipt, find_ledger, make_ledger_parser, reading_receipts
from mcp_guard.cli.log import HEADINGS
from mcp_guard.cli.log import row as receipt_row
from mcp_guard.cli.options import whole_number
from mcp_guard.cli.output import print_json, print_lines, print_listing, print_text, to_type
from mcp_guard.cli.verification_note import last_verification
from mcp_guard.config import load
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import DAY, Mode
from mcp_guard.core.receipt import format_time
from mcp_guard.core.visible_text import say
from mcp_guard.diagnostics.hidden_tools import HiddenFrom, summarize
from mcp_guard.diagnostics.policy_approval import as_in_force, inspect_policy_approval
from mcp_guard.diagnostics.running_guards import StartedGuard, differences, installed_guard, read_started
from mcp_guard.diagnostics.snapshot import PendingApproval
from mcp_guard.diagnostics.state_folder import StateFolder, inspect_state_folder
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.verification_note import why_discontinued
from mcp_guard.settings import Settings
from mcp_guard.storage.engines import open_read_only
from mcp_guard.storage.place import Place
from mcp_guard.storage.presence import GUARDS
from mcp_guard.storage.rows import WitnessedCheckpoint
from mcp_guard.upstream.status_file import read_statuses
from mcp_guard.verifier.report import count

MAX_RECENT_RECEIPTS = 500
"""The number of latest receipts that are searched for calls and failures."""
BAD_ENDINGS = ("upstream_error", "timeout", "not_sent", "unknown")


@reading_receipts()
def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    ledger = find_ledger(options)
    unseen = [] if options.ledger else find_unseen(options, ledger.place)
    state = inspect_state_folder(ledger.folder, ledger.place)
    if state.contents is None:
        raise LedgerError(
            state.failure or f"no ledger at `{ledger.place}`",
            state.hint or "run the guard once, or diagnose with: mcp-guard doctor",
        )
    receipts = [json.loads(body) for body in ledger.engine.latest_receipts(MAX_RECENT_RECEIPTS)]
    calls = latest_calls(receipts, options.last)
    settings = None if options.ledger else load(options.config)
    running = state.running
    started = read_started(ledger.place, running)
    files = group_by_policy_files(ledger.place, state.contents.leased)
    mode = None if settings is None else as_started(settings, started, running)
    hidden, can_load = judge_policies(mode, ledger.place)
    if options.json:
        more = {
            "hidden": [asdict(row) for row in hidden],
            "unmatched": unseen,
            "running": [asdict(guard) for guard in started] if running else [],
            "policy_files": files,
        }
        print_json({**as_json(ledger, state, receipts, calls, started), **more}, indent=2)
        return 0
    now = CLOCK.wall()
    print_text(ledger_line(ledger.place, state))
    print_lines(head_lines(read_head(ledger), state.contents.checkpoint_fits, state.contents.key_id, now))
    print_text(policies_line(receipts, started))
    print_lines(policy_files_lines(files))
    if settings is not None:
        print_lines(policy_approval_lines(settings, ledger.place))
        print_lines(outdated_lines(settings, started, can_load) if running else ())
    for line in summarize(hidden):
        print_text(f"hidden: {line}")
    print_lines(f"configuration: {line}" for line in unseen)
    print_text(guards_line(running, started, sorted(state.contents.leased.difference(running))))
    print_text(approvals_line(len(state.pending)))
    print_lines(f"  {pending_line(pending, now)}" for pending in state.pending)
    for line in upstream_lines(upstream_statuses(ledger.folder, running)):
        print_text(line)
    for server, endings in count_failures(receipts).items():
        counts = ", ".join(f"{count} {ending}" for ending, count in endings.items())
        print_text(f"upstream {server}: {counts} among the last calls")
    if calls:
        with open_read_only(ledger.place) as store:
            print_listing(HEADINGS, [receipt_row(store, receipt) for receipt in calls])
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_ledger_parser("status", "Show the ledger, running guards, pending approvals and the last calls.")
    parser.add_argument(
        "--last", type=whole_number(0), default=5, metavar="N", help="how many of the last calls to list (default 5)"
    )
    return parser


def find_unseen(options: argparse.Namespace, place: Place) -> list[str]:
    """Names of tools in the configuration that no tool has; none if the ledger cannot be read, which is said anyway."""
    try:
        with open_read_only(place) as store:
            return describe_unseen(load(options.config), store)
    except LedgerError:
        return []


def judge_policies(settings: Settings | None, place: Place) -> tuple[list[HiddenFrom], bool]:
    """The tools that the policies hide now, and whether they can be loaded."""
    if settings is None:
        return [], True
    with as_in_force(settings, place) as judged:
        return [row for row in find_hidden(judged) if row.is_now], can_load_policies(judged)


def ledger_line(place: Place, state: StateFolder) -> str:
    assert state.contents is not None
    size = state.contents.bytes / (1024 * 1024)
    return f"ledger: {count(state.contents.size, 'receipt')}, {size:.1f} MiB, `{place}`"


def as_started(settings: Settings, started: Sequence[StartedGuard], running: list[str]) -> Settings:
    """The settings, in the mode of the guard that runs, which may be another one than the file has now."""
    return replace(settings, mode=Mode(started[-1].mode)) if running and started and started[-1].mode else settings


def outdated_lines(settings: Settings, started: Sequence[StartedGuard], can_load: bool) -> list[str]:
    """What running guards do not have in force of the files, and why. `can_load`: whether the policies load."""
    what, now = "the files have mistakes; running guards keep what they loaded before", installed_guard(settings)
    policies = [] if can_load else [to_type(f"policies: {what}: mcp-guard policy validate")]
    return policies + [
        f"outdated: {line}: restart it, or its client" for guard in started for line in differences(guard, now)
    ]


def latest_calls(receipts: Sequence[Receipt], count: int) -> list[Receipt]:
    calls = [each for each in receipts if each["kind"] in ("intent", "decision") and not each.get("purpose")]
    return calls[-count:] if count > 0 else []


def group_by_policy_files(place: Place, gateways: Set[str]) -> list[list[str]]:
    """Running gateways, each together with those that have the same policy files."""
    from mcp_guard.ledger.peers import group_by_files

    if not gateways:
        return []
    with open_read_only(place) as store:
        return group_by_files(store, gateways)


def policy_files_lines(groups: Sequence[Sequence[str]]) -> list[str]:
    names = " and ".join(", ".join(group) for group in groups)
    return [f"policies: gateways have different policy files: {names}: give all the same"] if len(groups) > 1 else []


def policy_approval_lines(settings: Settings, place: Place) -> list[str]:
    """What of four eyes on policy needs attention."""
    what, fix = inspect_policy_approval(settings, place)
    return [say("policy approval: {}", what) + to_type(f": {fix}")] if what else []


def approvals_line(pending: int) -> str:
    return f"approvals: {pending} pending" + (to_type(": mcp-guard approvals show ID") if pending else "")


def guards_line(running: list[str], started: Sequence[StartedGuard], elsewhere: list[str]) -> str:
    """The running guards, each with its version if its receipt names one, and those of other state folders."""
    versions = {guard.name: f" {guard.version}".rstrip() for guard in started}
    names = ", ".join(f"{name}{versions.get(name, '')}" for name in running)
    others = f", {len(elsewhere)} elsewhere ({', '.join(elsewhere)})" if elsewhere else ""
    return f"guards: {len(running)} running" + (f" ({names})" if running else "") + others


def policies_line(receipts: list[Receipt], started: Sequence[StartedGuard]) -> str:
    version, mode = policies_of(receipts, started)
    loaded = f"version {version[7:19]}" if version else "none loaded recently"
    return f"policies: {loaded}, mode {mode or 'unknown'}"


def policies_of(receipts: list[Receipt], started: Sequence[StartedGuard]) -> tuple[str | None, str | None]:
    """The version that was loaded or decided by last, and the mode of the guard that runs, or ran last."""
    ours = [receipt for receipt in receipts if not (receipt["kind"] == "policy.loaded" and "shadow" in receipt)]
    versions = [receipt["policy_version"] for receipt in ours if receipt.get("policy_version", "none") != "none"]
    return (str(versions[-1]) if versions else None), (started[-1].mode or None if started else None)


def pending_line(pending: PendingApproval, now: int) -> str:
    held = pending.approval
    who = f"{held.subject.tool} by {held.subject.agent}, on {', '.join(held.routes)}"
    return f"{held.id}: {who}, {left(held.expires, now)} left"


def upstream_statuses(folder: Path, running: list[str]) -> list[Receipt]:
    """The state of the upstreams in every session of the running guards."""
    return [{"guard": guard, **row} for guard in running for row in read_statuses(folder / GUARDS, guard)]


def upstream_lines(rows: list[Receipt]) -> list[str]:
    """One line for each upstream: what its sessions learned last, and how many of them know otherwise."""
    by_upstream: dict[str, list[Receipt]] = {}
    for row in rows:
        by_upstream.setdefault(str(row["upstream"]), []).append(row)
    lines = []
    for upstream, known in sorted(by_upstream.items()):
        latest = max(known, key=lambda row: float(row["since"]))
        is_up = latest["is_up"] is True
        same = [row for row in known if row["is_up"] is is_up]
        others = [row for row in known if row["is_up"] is not is_up]
        times = f"since {_clock(min(row['since'] for row in same))}"
        if not is_up and (following := max(row["next_try"] for row in same)):
            times += f", next try {_clock(following)}"
        sessions = f"{len(known)} session{'s' if len(known) > 1 else ''}"
        if others:
            sessions = f"{len(same)} of {sessions}"
        if others and is_up:
            sessions += f"; down in {len(others)}: {others[0]['why']}"
        state, why = ("up", "") if is_up else ("down", f": {latest['why']}")
        lines.append(f"upstream {upstream}: {state} {times} ({sessions}){why}")
    return lines


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def count_failures(receipts: list[Receipt]) -> Mapping[str, Mapping[str, int]]:
    """By upstream: the number of calls that failed for reasons other than the caller's."""
    endings: dict[str, Counter[str]] = {}
    for receipt in receipts:
        if receipt["kind"] == "outcome" and receipt.get("ending") in BAD_ENDINGS:
            endings.setdefault(str(receipt.get("upstream")), Counter())[receipt["ending"]] += 1
    return endings


def as_json(
    ledger: ChosenLedger,
    state: StateFolder,
    receipts: list[Receipt],
    calls: list[Receipt],
    started: Sequence[StartedGuard],
) -> Mapping[str, Any]:
    assert state.contents is not None
    return {
        "ledger": str(ledger.place),
        "receipts": state.contents.size,
        "bytes": state.contents.bytes,
        "head": head_as_json(read_head(ledger), state.contents.checkpoint_fits, state.contents.key_id),
        "policies": dict(zip(("version", "mode"), policies_of(receipts, started), strict=True)),
        "guards": state.running,
        "guards_elsewhere": sorted(state.contents.leased.difference(state.running)),
        "pending": [pending.approval.id for pending in state.pending],
        "calls": calls,
        "troubles": count_failures(receipts),
        "upstreams": upstream_statuses(ledger.folder, state.running),
    }


@dataclass(frozen=True, slots=True)
class HeadStatus:
    """`key_since` and the times of what was verified and witnessed are microseconds; `verified` is (time, receipts).
    `discontinued` says how the ledger contradicts that verification; it is empty if it does not."""

    receipts: int
    key_since: int | None
    verified: tuple[int, int] | None
    witnessed: tuple[WitnessedCheckpoint, ...]
    discontinued: str


def read_head(ledger: ChosenLedger) -> HeadStatus:
    """Raises: LedgerError."""
    with open_read_only(ledger.place) as store:
        keys = store.guard_keys()
        first = store.receipt(keys[-1].since) if keys else None
        since = first.at if first else None
        return HeadStatus(
            store.head().size,
            since,
            last_verification(ledger.folder),
            tuple(store.witnessed().values()),
            why_discontinued(store, ledger.folder),
        )


def head_lines(head: HeadStatus, is_signed: bool | None, key: str, now: int) -> list[str]:
    signature = {
        None: "no receipt yet",
        False: to_type("signature does not match; run mcp-guard doctor"),
        True: f"signed with key {key}",
    }
    age = f", in use since {_minute(head.key_since)} ({_days(now - head.key_since)})" if head.key_since else ""
    verified = to_type("never on this machine; run mcp-guard verify")
    if head.verified is not None:
        at, receipts = head.verified
        verified = f"{receipts} of {head.receipts} receipts, {_days(now - at)} ago ({_minute(at)})"
        if head.discontinued:
            last = f"last {_days(now - at)} ago ({_minute(at)})"
            verified = f"WARNING: {head.discontinued}, {last}; {to_type('run mcp-guard verify')}"
    return [
        f"head: {signature[is_signed]}{age}",
        f"verified: {verified}",
        *(
            f"witnessed: {checkpoint.witness}, {checkpoint.size} receipts, {_minute(checkpoint.at)}"
            for checkpoint in head.witnessed
        ),
    ]


def head_as_json(head: HeadStatus, is_signed: bool | None, key: str) -> dict[str, object]:
    verified = {"at": format_time(head.verified[0]), "receipts": head.verified[1]} if head.verified else None
    return {
        "signed": is_signed,
        "key": key,
        "key_since": format_time(head.key_since) if head.key_since else None,
        "verified": verified,
        "discontinued": head.discontinued,
        "witnessed": [{"witness": w.witness, "receipts": w.size, "at": format_time(w.at)} for w in head.witnessed],
    }


def _minute(at: int) -> str:
    return format_time(at)[:16].replace("T", " ")


def _days(span: int) -> str:
    days = max(0, span) // DAY
    return count(days, "day") if days else "less than a day"
