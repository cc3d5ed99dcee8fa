"""`mcp-guard approvals`: list, show, approve and deny held calls, from a terminal that is not the agent's."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict

from mcp_guard.app import CLOCK, ledger_settings
from mcp_guard.cli.options import add_config, add_json
from mcp_guard.cli.table import print_lines, print_table, printable
from mcp_guard.config import load
from mcp_guard.core.approval import Approval, State
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.receipt import format_time
from mcp_guard.ledger.opening import open_writer
from mcp_guard.ledger.requests import Ballot, vote
from mcp_guard.ledger.writer import Writer
from mcp_guard.settings import Settings

VERDICTS = ("approve", "deny")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    settings = load(options.config)
    writer = open_writer(ledger_settings(settings), CLOCK, create=False)
    if options.verb == "list":
        return list_approvals(writer, options)
    if options.verb == "show":
        return show(writer, options)
    return decide(writer, settings, options)


def parse(arguments: list[str]) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="mcp-guard approvals", description="Decide on calls that wait for a person.")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="requests that are open (or all: --all)")
    listing.add_argument("--all", action="store_true", help="decided ones too")
    showing = verbs.add_parser("show", help="who, what, why, and until when")
    deciding = [verbs.add_parser(verdict, help=f"{verdict} one request") for verdict in VERDICTS]
    for verb in (showing, *deciding):
        verb.add_argument("id", metavar="ID")
    for verb in deciding:
        verb.add_argument("--as", dest="approver", required=True, metavar="APPROVER", help="a name under [approvers]")
        verb.add_argument("--rationale", required=True, metavar="TEXT", help="why; recorded, and shown to the agent")
    for verb in (listing, showing, *deciding):
        add_config(verb)
        add_json(verb)
    return made.parse_args(arguments)


def list_approvals(writer: Writer, options: argparse.Namespace) -> int:
    states = tuple(State) if options.all else (State.REQUESTED, State.APPROVED)
    found = writer.read(lambda store: store.approvals(states))
    now = writer.now()
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
        return 0
    if not found:
        print("no request is open")
        return 0
    rows = [
        (each.id, _state(each, now), each.subject["agent"], what(each), ", ".join(each.routes), _left(each, now))
        for each in found
    ]
    print_table(("id", "state", "agent", "what", "routes", "time left"), rows)
    return 0


def show(writer: Writer, options: argparse.Namespace) -> int:
    found = writer.read(lambda store: store.approval(options.id))
    if found is None:
        raise ApprovalError(f"no approval `{options.id}`", "mcp-guard approvals list --all")
    if options.json:
        print(json.dumps(asdict(found[0]), indent=2, ensure_ascii=False))
    else:
        print_lines(describe(found[0], writer.now()))
    return 0


def describe(approval: Approval, now: int) -> list[str]:
    """Everything that the decision should rest on, in lines."""
    subject: Mapping[str, object] = approval.subject
    user = f" on behalf of {subject['on_behalf_of']}" if subject.get("on_behalf_of") else ""
    claims = [f"  claims reason  {subject['reason']}"] if subject.get("reason") else []
    risk = approval.subject["risk"]
    policies = ", ".join(approval.subject["policies"])
    votes = [
        f"  {vote.verdict:<13}  {vote.name or vote.approver} at {format_time(vote.at)}: {vote.rationale}"
        for vote in approval.votes
    ]
    return [
        f"{approval.id}  {_state(approval, now)}  {_left(approval, now)}",
        f"  who            {subject['agent']}, instance {approval.instance}{user} (owner {subject.get('owner')})",
        f"  what           {what(approval)}",
        f"  tool           {subject['tool']}",
        *([f"  ticket         {subject['ticket']}"] if subject.get("ticket") else []),
        *claims,
        f"  why asked      {'; '.join(approval.subject['reasons']) or 'a policy asks for it'} (policy {policies})",
        f"  risk           {risk['score']} {risk['level']}",
        *(f"                 {signal}" for signal in risk["signals"]),
        "  would change",
        *(f"    {line}" for line in diff(approval)),
        f"  arguments      {json.dumps(subject['arguments'], ensure_ascii=False)}",
        f"  routes         {', '.join(approval.routes)}",
        *votes,
        *([f"  note           {approval.note}"] if approval.note else []),
    ]


def diff(approval: Approval) -> list[str]:
    """Each changed field: its present value and the one asked for."""
    present, wanted = approval.subject["present"], approval.subject["arguments"]
    known = json.dumps
    return [
        f"{name}: {known(present[name], ensure_ascii=False) if name in present else '(not known)'}"
        f" -> {known(wanted.get(name), ensure_ascii=False)}"
        for name in approval.subject["changes"]
    ] or ["nothing that is known"]


def decide(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    name = settings.approvers.get(options.approver)
    if name is None:
        known = ", ".join(settings.approvers) or "nobody yet"
        raise ApprovalError(f"`{options.approver}` is not an approver", f"enrolled under [approvers]: {known}")
    ballot = Ballot(options.approver, name, options.verb, options.rationale)
    approval = vote(writer, settings.routes, options.id, ballot)
    if options.json:
        print(json.dumps(asdict(approval), indent=2, ensure_ascii=False))
    elif approval.state is State.REQUESTED:
        print(f"{approval.id}: recorded; other routes must approve too")
    else:
        print(f"{approval.id}: {approval.state}: {printable(what(approval))}")
    return 0


def what(approval: Approval) -> str:
    subject = approval.subject
    resource = subject.get("resource", {})
    if subject.get("deed"):
        return f"{subject['deed']} {resource.get('id', '')}"
    of = f" on {resource['type']} {resource['id']}" if resource.get("type", "Tool") != "Tool" else ""
    return f"{subject['tool']}{of}"


def _state(approval: Approval, now: int) -> str:
    lapsed = approval.state in (State.REQUESTED, State.APPROVED) and now >= approval.expires
    return "expired" if lapsed else str(approval.state)


def _left(approval: Approval, now: int) -> str:
    seconds = max(0, (approval.expires - now) // 1_000_000)
    return f"{seconds // 60} min {seconds % 60} s"
