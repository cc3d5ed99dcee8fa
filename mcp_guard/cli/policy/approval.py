"""`mcp-guard policy pending`, `propose`, `approve` and `deny`: people approve policies before they are loaded."""

import argparse
from contextlib import closing

from mcp_guard.cli.approvers import add_key_options, as_new_key, open_key, signature_of
from mcp_guard.cli.options import account, add_json, make_parser
from mcp_guard.cli.output import print_hint, print_json, print_lines, print_result, print_text, to_type
from mcp_guard.cli.policy.inputs import known_environment, recorded_environment
from mcp_guard.config import load
from mcp_guard.core.approval_card import format_minute
from mcp_guard.core.errors import ConfigError, PolicyError
from mcp_guard.core.model import Json
from mcp_guard.core.policy_approval import PolicyApprovalState, PolicyProposal, describe_missing, hash_of_set
from mcp_guard.core.visible_text import VisibleText, join, quote, say, value_text
from mcp_guard.ledger.approvals.approver_keys import usable_key
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.ledger.policy_approvals import PolicyApprovals, configured_approvals, read_state, read_texts
from mcp_guard.ledger.writer import Writer
from mcp_guard.policy.authoring.set_diff import FileDiff, diff_sets, show_files
from mcp_guard.policy.engine import load_policies
from mcp_guard.policy.source import read_files
from mcp_guard.settings import Settings

SHORT = slice(7, 19)
"""The characters of a hash that are shown."""


def build_pending_parser() -> argparse.ArgumentParser:
    parser = make_parser("policy pending", "Show the policies that wait for approval, and how they differ.")
    add_json(parser)
    return parser


def build_propose_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "policy propose", "Propose the policy files for approval, as a running guard does when they change."
    )
    add_json(parser)
    return parser


def build_approve_parser() -> argparse.ArgumentParser:
    return _deciding_parser("approve")


def build_deny_parser() -> argparse.ArgumentParser:
    return _deciding_parser("deny")


HELPS = {
    "approve": "Approve policies that wait; the last approval that is missing puts them in force.",
    "deny": "Deny policies that wait; those in force stay.",
}


def _deciding_parser(verdict: str) -> argparse.ArgumentParser:
    parser = make_parser(f"policy {verdict}", HELPS[verdict])
    parser.add_argument("id", metavar="ID", help="the proposal, from `policy pending`")
    parser.add_argument("--as", dest="approver", required=True, metavar="APPROVER", help="a name from [approvers]")
    parser.add_argument("--rationale", required=True, metavar="TEXT", help="the reason; recorded in the ledger")
    add_key_options(parser)
    add_json(parser)
    return parser


def _open(options: argparse.Namespace) -> tuple[Settings, Writer, PolicyApprovals]:
    """Raises: ConfigError if the rule is off."""
    settings = load(options.config)
    if settings.policy_approval is None:
        raise ConfigError(
            "policies need no approval here: `guard.policy_approval` is not set",
            f'name a route in {settings.path}: [guard] policy_approval = "ROUTE"',
        )
    writer = open_writer(ledger_settings(settings), CLOCK)
    approvals = configured_approvals(settings, writer)
    assert approvals is not None
    return settings, writer, approvals


def pending(arguments: list[str]) -> int:
    """Exit codes: 0, whether or not something waits."""
    options = build_pending_parser().parse_args(arguments)
    settings, writer, _ = _open(options)
    with closing(writer):
        state = writer.read(read_state) or PolicyApprovalState()
        proposal = state.open
        differences = _differences(writer, state, proposal) if proposal else []
        if options.json:
            print_json(state.to_json() | {"differences": [_as_json(file) for file in differences]}, indent=2)
            return 0
        in_force = f"policy set {state.in_force[SHORT]}" if state.in_force else "nothing, so every call is denied"
        print_text(f"in force: {in_force}")
        if proposal is None:
            print_text(_why_nothing_waits(settings, state))
            return 0
        print_lines(describe(proposal))
    for file in show_files(differences):
        print_text(say("{} {}", file.change, quote(file.file)))
        print_lines(VisibleText(f"{line.sign} {line.text}") for line in file.lines)
    print_hint(f"mcp-guard policy approve {proposal.id} --as APPROVER --rationale TEXT (or deny)")
    return 0


def _differences(writer: Writer, state: PolicyApprovalState, proposal: PolicyProposal) -> list[FileDiff]:
    in_force = state.in_force
    before = writer.read(lambda store: read_texts(store, in_force)) if in_force else {}
    return diff_sets(before, writer.read(lambda store: read_texts(store, proposal.policy_set)))


def describe(proposal: PolicyProposal) -> list[str]:
    """Everything but the difference, as lines."""
    votes = [
        say("  {:<13}  {}: {}", vote.verdict, quote(vote.name), value_text(vote.rationale)) for vote in proposal.votes
    ]
    return [
        say("{}  policy set {}", proposal.id, proposal.policy_set[SHORT]),
        say("  proposed       {} by {}", format_minute(proposal.at), quote(proposal.by)),
        say("  route          {}: {}", quote(proposal.rule.route), describe_missing(proposal)),
        *votes,
    ]


def _why_nothing_waits(settings: Settings, state: PolicyApprovalState) -> str:
    try:
        policy_set = hash_of_set(read_files(settings.policies))
    except PolicyError as error:
        return say("nothing waits for approval; {}", error.message)
    if policy_set == state.in_force:
        return "nothing waits for approval: the files are as the set in force"
    if policy_set == state.denied:
        return to_type("nothing waits for approval: the files were denied; change them, or: mcp-guard policy propose")
    return to_type("nothing waits yet: a running guard proposes changed files; without one: mcp-guard policy propose")


def _as_json(file: FileDiff) -> Json:
    return {"file": file.file, "change": file.change, "lines": [line.sign + line.text for line in file.lines]}


def propose(arguments: list[str]) -> int:
    options = build_propose_parser().parse_args(arguments)
    settings, writer, approvals = _open(options)
    with closing(writer):
        texts = read_files(settings.policies)
        environment, _ = known_environment(settings, live=False, quiet=options.json)
        unlisted = recorded_environment(settings, (), settings.upstreams.keys())
        load_policies(settings.policies, environment or unlisted, texts)
        state = writer.run(approvals.propose_op(texts, account(), again=True))
    if state.open is None:
        print_result(options.json, state.to_json(), "nothing was proposed: the files are as the set in force")
        return 0
    proposal = state.open
    print_result(options.json, state.to_json(), say("{}: {}", proposal.id, describe_missing(proposal)))
    return 0


def approve(arguments: list[str]) -> int:
    return _decide("approve", arguments)


def deny(arguments: list[str]) -> int:
    return _decide("deny", arguments)


def _decide(verdict: str, arguments: list[str]) -> int:
    options = _deciding_parser(verdict).parse_args(arguments)
    _, writer, approvals = _open(options)
    with closing(writer):
        prepare = approvals.prepare_op(options.id, options.approver, verdict, options.rationale)
        writer.run(prepare)  # before a passphrase is asked for
        key = open_key(writer, options, options.approver)
        id = as_new_key(key).id
        usable_key(writer.read(lambda store: store.approver_keys()), id, options.approver)
        statement = writer.run(prepare)
        state = writer.run(approvals.record_op(statement, id, signature_of(key, statement.text())))
    print_result(options.json, state.to_json(), join("", [f"{options.id}: ", _result(verdict, state)]))
    return 0


def _result(verdict: str, state: PolicyApprovalState) -> str:
    if verdict == "deny":
        return "denied; the policies in force stay"
    if state.open is not None:
        return say("vote recorded; {}", describe_missing(state.open))
    assert state.in_force is not None
    return f"approved; every guard loads policy set {state.in_force[SHORT]} within seconds"
