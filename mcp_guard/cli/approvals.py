"""`mcp-guard approvals`: list, watch, show and decide on held calls, from a terminal that is not the agent's."""

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from functools import partial

from mcp_guard.cli.approvers import APPROVER, add_key_options, as_new_key, open_key, signature_of
from mcp_guard.cli.options import Parser, add_config, add_json, duration, whole_number
from mcp_guard.cli.output import print_json, print_lines, print_result, print_table, print_text, to_type
from mcp_guard.config import load
from mcp_guard.core.approval import OPEN, Approval, ApprovalState, GrantTerms, describe_rule, rules_as_json
from mcp_guard.core.approval_card import (
    UNDO,
    ArgumentRow,
    approvals_missing,
    approvals_so_far,
    argument_rows,
    earlier_lines,
    format_minute,
    is_irreversible,
    odd_words,
    other_odd_words,
    recent_lines,
    signal_words,
)
from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.drill_results import drill_lines, drill_member, is_told
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import SECOND
from mcp_guard.core.receipt import CLAIMED, SELF_APPROVED, format_time, service_mark
from mcp_guard.core.visible_text import VisibleText, join, labelled_text, quote, say, value_text, visible, visible_json
from mcp_guard.ledger.approvals.approver_keys import usable_key
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.ledger.writer import Writer
from mcp_guard.storage.rows import Delivery

VERDICTS = {"approve": "approve", "deny": "deny", "grant": "approve"}
POLL_SECONDS = 0.5


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    with closing(open_writer(ledger_settings(settings), CLOCK, create=False)) as writer:
        votes = Votes(writer, settings.routes, settings.approvers)
        verbs = {
            "list": partial(list_approvals, writer),
            "watch": partial(watch, writer),
            "show": partial(show, writer),
            "revoke": partial(revoke, votes),
            "stats": partial(show_statistics, writer, settings.approvers),
        }
        return verbs.get(options.verb, partial(decide, votes))(options)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mcp-guard approvals", description="List, show and decide on calls that are held for approval."
    )
    elsewhere = {"code": "mcp-guard approvers code"}
    verbs = parser.add_subparsers(elsewhere=elsewhere, dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="list pending approvals and active grants")
    listing.add_argument("--all", action="store_true", help="include decided approvals")
    watching = verbs.add_parser("watch", help="print each new request; stop with Ctrl-C")
    watching.add_argument("--until", type=whole_number(1), metavar="N", help="stop after N requests")
    showing = verbs.add_parser("show", help="show one request with everything an approver needs")
    helps = {
        "approve": "approve the call; it runs once",
        "deny": "deny the call",
        "grant": "approve the call and a limited number of similar ones",
    }
    deciding = {verdict: verbs.add_parser(verdict, help=helps[verdict]) for verdict in VERDICTS}
    counting = verbs.add_parser("stats", help="show how each approver decides: how much, how fast, and drills caught")
    counting.add_argument(
        "--since", dest="seconds", type=duration, default=30 * 86400, metavar="TIME", help="default: 30d"
    )
    revoking = verbs.add_parser("revoke", help="revoke a grant, or an approval that has not been used")
    for verb in (showing, revoking, *deciding.values()):
        verb.add_argument("id", metavar="ID")
    for verb in (revoking, *deciding.values()):
        verb.add_argument(
            "--as",
            dest="approver",
            required=True,
            metavar="APPROVER",
            help=APPROVER,
        )
        verb.add_argument(
            "--rationale", required=True, metavar="TEXT", help="the reason; recorded, and shown to the agent"
        )
    for verb in deciding.values():
        add_key_options(verb)
    add_grant_options(deciding["grant"])
    for verb in (listing, watching, showing, counting, revoking, *deciding.values()):
        add_config(verb)
        add_json(verb)
    return parser


def add_grant_options(granting: argparse.ArgumentParser) -> None:
    granting.add_argument(
        "--more", type=whole_number(1), required=True, metavar="N", help="how many further calls to allow"
    )
    granting.add_argument(
        "--for",
        dest="seconds",
        type=duration,
        required=True,
        metavar="TIME",
        help="for how long: 900, 30m, 1h",
    )
    granting.add_argument(
        "--free", default="", metavar="A,B", help="arguments that may differ; all others must be the same"
    )


def list_approvals(writer: Writer, options: argparse.Namespace) -> int:
    states = tuple(ApprovalState) if options.all else (ApprovalState.REQUESTED, ApprovalState.APPROVED)
    approvals = writer.read(lambda store: store.approvals(states))
    grants = writer.read(lambda store: store.grants(state=None if options.all else "active"))
    now = writer.now()
    grants = [grant for grant in grants if options.all or now < grant.expires]
    if options.json:
        listed = [approval.to_json() for approval in approvals] + [asdict(grant) for grant in grants]
        print_json(listed, indent=2)
        return 0
    if not approvals and not grants:
        older = "" if options.all else "; decided, expired and withdrawn ones: mcp-guard approvals list --all"
        print_text(f"no approval is pending{to_type(older)}", file=sys.stderr)
        return 0
    rows = [
        (
            approval.id,
            _state(approval, now),
            approval.subject.agent,
            what(approval),
            ", ".join(approval.routes),
            _left_of(approval, now),
        )
        for approval in approvals
    ]
    rows += [
        (grant.id, f"{grant.state}: {grant.used} of {grant.uses}", grant.binding["instance"], grant.binding["tool"],
         ", ".join(grant.binding["routes"]), left(grant.expires, now))
        for grant in grants
    ]  # fmt: skip
    print_table(("id", "state", "agent", "what", "routes", "time left"), rows)
    return 0


def watch(writer: Writer, options: argparse.Namespace) -> int:
    shown: set[str] = set()
    while True:
        for approval in writer.read(lambda store: store.approvals([ApprovalState.REQUESTED])):
            if approval.id not in shown:
                shown.add(approval.id)
                print_approval(writer, approval, options.json)
                if len(shown) == options.until:
                    return 0
        time.sleep(POLL_SECONDS)


def show(writer: Writer, options: argparse.Namespace) -> int:
    stored = writer.read(lambda store: store.approval(options.id))
    if stored is None:
        raise ApprovalError(f"no approval `{options.id}`", "mcp-guard approvals list --all")
    print_approval(writer, stored[0], options.json)
    return 0


def show_statistics(writer: Writer, people: Mapping[str, str], options: argparse.Namespace) -> int:
    from mcp_guard.core.approver_statistics import count_votes, rate_words, time_words  # for this verb alone

    now = writer.now()
    since = now - options.seconds * SECOND
    statistics = writer.read(lambda store: count_votes(store.requests_since(since), people, now))
    if options.json:
        print_json(statistics.to_json(), indent=2)
        return 0
    rows = [
        (
            record.approver,
            *(record.counts[name] for name in ("waiting", "approved", "denied")),
            time_words(record.median_seconds),
            rate_words(record),
        )
        for record in statistics.records
    ]
    print_table(("approver", "waiting", "approved", "denied", "median time", "drills caught"), rows)
    if statistics.undecided:
        print_text(f"nobody decided on {statistics.undecided} of {statistics.drills} drills", file=sys.stderr)
    return 0


def print_approval(writer: Writer, approval: Approval, as_json: bool) -> None:
    deliveries = writer.read(lambda store: store.deliveries(approval.id))
    recent = writer.read(lambda store: store.recent_calls(approval))
    earlier = writer.read(lambda store: store.earlier_requests(approval))
    if as_json:
        more = {
            "deliveries": [asdict(delivery) for delivery in deliveries],
            "recent_calls": asdict(recent),
            "earlier_requests": asdict(earlier),
        }
        print_json(approval.to_json() | more, indent=2)
        return
    past = [
        *_labelled("recent calls", (say("{}: {}", *line) for line in recent_lines(recent, approval.subject))),
        *_labelled("earlier", earlier_lines(earlier, approval.subject)),
    ]
    print_lines([*describe(approval, writer.now()), *past, *map(_delivery, deliveries)])


def _labelled(label: str, lines: Iterable[str]) -> list[VisibleText]:
    """The lines, the first of them with its label."""
    return [say("  {:<13}  {}", "" if number else label, line) for number, line in enumerate(lines)]


def _delivery(delivery: Delivery) -> str:
    note = f": {delivery.note}" if delivery.note else ""
    if delivery.state == "waiting":
        return f"  notified       {delivery.notifier} ({delivery.event}): when the request ends"
    return f"  notified       {delivery.notifier} ({delivery.event}): {delivery.state}, {delivery.attempts} tried{note}"


UNKNOWN_USER = "was not in the configuration when the agent asked, so at least two people must approve"


def describe(approval: Approval, now: int) -> list[str]:
    """Everything an approver needs to decide, as lines."""
    subject = approval.subject
    user = f" on behalf of {quote(subject.on_behalf_of)}" if subject.on_behalf_of else ""
    who = f"{quote(subject.agent)}, instance {quote(approval.instance)}{user} (owner {quote(subject.owner)})"
    reasons = join("; ", subject.reasons) or "a policy requires approval"
    votes = [
        say(
            "  {:<13}  {}{}{} at {}: {}",
            vote.verdict,
            quote(vote.name or vote.approver),
            service_mark({"method": vote.method}),
            SELF_APPROVED if vote.verdict == "approve" and approval.is_requester(vote.approver) else "",
            format_time(vote.at),
            value_text(vote.rationale),
        )
        for vote in approval.votes
    ]
    lines = [
        f"{approval.id}  {_state(approval, now)}  {_left_of(approval, now)}".rstrip(),
        *(f"  {line}" for line in drill_lines(approval)),
        f"  who            {who}",
        *(unknown_user_lines(subject, approval.state) if subject.unknown_user else []),
        f"  what           {what(approval)}",
        f"  tool           {visible(subject.tool)}",
        *([f"  caution        {UNDO}"] if is_irreversible(subject) else []),
        *(f"  caution        {_odd_line(words)}" for words in [other_odd_words(subject)] if words),
        *([f"  ticket         {quote(subject.ticket)}{_mark(subject, 'ticket')}"] if subject.ticket else []),
        *([f"  {_claims(subject)}  {labelled_text(subject.reason)}"] if subject.reason else []),
        f"  why asked      {reasons} (policy {', '.join(map(quote, subject.policies))})",
        f"  risk           {subject.risk.level}, {subject.risk.score} of 100",
        *(f"                 {_signal(signal)}" for signal in subject.risk.signals),
        "  would change",
        *(f"    {line}" for line in diff(approval)),
        *([f"  as it {'is now' if _is_pending(approval, now) else 'was then'}"] if subject.facts else []),
        *(f"    {quote(name)}: {visible_json(value)}" for name, value in (subject.facts or {}).items()),
        f"  arguments      {visible_json(subject.arguments)}",
        *([f"  sent with it   {visible_json(subject.meta)} (_meta)"] if subject.meta else []),
        *(f"  route          {_rule(approval, position)}" for position in range(len(approval.rules))),
        f"  expires        {format_minute(approval.expires)}",
        *votes,
        *([f"  note           {labelled_text(approval.note)}"] if approval.note else []),
    ]
    return [VisibleText(line) for line in lines]


def unknown_user_lines(subject: ApprovalSubject, state: ApprovalState) -> list[str]:
    """That at least two people must approve, and the way out while the request is open."""
    lines = [f"  unknown user   {UNKNOWN_USER}"]
    way_out = say("to need only the route's own quorum: {}", subject.name_user)
    return [*lines, f"                 {way_out}"] if state is ApprovalState.REQUESTED else lines


def _mark(subject: ApprovalSubject, name: str) -> str:
    return CLAIMED if name in subject.claimed else ""


def _claims(subject: ApprovalSubject) -> str:
    return "claims reason" if "reason" in subject.claimed else "reason       "


def diff(approval: Approval) -> list[str]:
    """One line for each changed field, sensitive argument and destination: its present and its requested value."""
    return [line for row in argument_rows(approval.subject) for line in _row_lines(row)] or ["no field"]


def _row_lines(row: ArgumentRow) -> list[str]:
    decoded = (say("  contains {} of: {}", encoding, quote(text, always=True)) for encoding, text in row.decoded)
    odd = odd_words(row.name, *map(visible_json, (row.before, row.after)))
    return [_diff_line(row), *decoded, *(f"  {_odd_line(odd)}" for _ in odd[:1])]


def _odd_line(words: Iterable[str]) -> VisibleText:
    return say("letters that can be taken for others, in: {}", join(", ", words))


def _diff_line(row: ArgumentRow) -> str:
    marks = f" [{', '.join(row.marks)}]" if row.marks else ""
    if not row.is_change:
        return f"{quote(row.name)}{marks}: {visible_json(row.after)} (no change)"
    before = f"({row.why_unknown})" if row.why_unknown else visible_json(row.before)
    return f"{quote(row.name)}{marks}: {before} -> {visible_json(row.after)}"


def _signal(signal: str) -> str:
    """What it says to people first, its code second."""
    words, code = signal_words(signal)
    return f"{words} ({code})" if code else words


def _rule(approval: Approval, position: int) -> str:
    rule = approval.rules[position]
    text = approval.subject.routes.get(rule.route)
    who = visible(describe_rule(rule, approval.subject.requesters))
    return f"{quote(rule.route)}: {who}{f' ({visible(text)})' if text else ''}"


def decide(votes: Votes, options: argparse.Namespace) -> int:
    terms = None
    if options.verb == "grant":
        free = tuple(name.strip() for name in options.free.split(",") if name.strip())
        terms = GrantTerms(options.more, options.seconds, free)
    verdict = VERDICTS[options.verb]
    votes.prepare(options.id, options.approver, verdict, options.rationale, terms)  # before a passphrase is asked for
    key = open_key(votes.writer, options, options.approver)
    id = as_new_key(key).id
    usable_key(votes.writer.read(lambda store: store.approver_keys()), id, options.approver)
    statement = votes.prepare(options.id, options.approver, verdict, options.rationale, terms)
    approval = votes.record(statement, id, signature_of(key, statement.text()))
    drill = drill_lines(approval, options.approver)
    if options.json:
        print_json(approval.to_json() | ({"drill": drill_member(approval)} if drill else {}), indent=2)
    elif drill:
        print_lines([say("{}: {}", approval.id, drill[0]), *drill[1:]])
    elif approval.state is ApprovalState.REQUESTED:
        rules, voted = rules_as_json(approval), [vote.approver for vote in approval.votes]
        so_far, missing = approvals_so_far(rules, voted), approvals_missing(rules, voted)
        print_text(say("{}: vote recorded: {} approvals; {}", approval.id, so_far, missing))
    else:
        print_text(say("{}: {}: {}", approval.id, str(approval.state), what(approval)))
    if not options.json and verdict == "approve" and approval.is_requester(options.approver):
        print_text("self-approved: it is your own request, and its receipts say so")
    return 0


def revoke(votes: Votes, options: argparse.Namespace) -> int:
    state = votes.revoke(options.id, options.approver, options.rationale)
    print_result(options.json, {"id": options.id, "state": state}, f"{options.id}: {state}")
    return 0


def what(approval: Approval) -> VisibleText:
    """The call that is asked for. Not by its tool's verb, which is in the past tense: nothing has happened yet."""
    subject, resource = approval.subject, approval.subject.resource
    of = say(" on {} {}", quote(resource.type), quote(resource.id)) if resource and resource.type != "Tool" else ""
    return say("{}{}", quote(subject.tool), of)


def _state(approval: Approval, now: int) -> str:
    lapsed = approval.state in OPEN and now >= approval.expires
    state = "expired" if lapsed else str(approval.state)
    return f"drill, {state}" if is_told(approval) else state


def _is_pending(approval: Approval, now: int) -> bool:
    return approval.state is ApprovalState.REQUESTED and now < approval.expires


def _left_of(approval: Approval, now: int) -> str:
    """The time left to decide or to use it; empty once it is closed."""
    return left(approval.expires, now) if approval.state in OPEN and now < approval.expires else ""


def left(expires: int, now: int) -> str:
    seconds = max(0, (expires - now) // SECOND)
    return f"{seconds // 60} min {seconds % 60} s"
