"""`mcp-guard instances`: issue, delegate and revoke the credentials of agent runs."""

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from mcp_guard.cli.configured_names import names_seen
from mcp_guard.cli.enrolled_agents import revoked_text
from mcp_guard.cli.options import Parser, account, add_config, add_json, add_task, lifetime, read_task, read_ticket
from mcp_guard.cli.output import plain, print_json, print_result, print_table, print_text
from mcp_guard.cli.signed_changes import add_signing_options, open_signer
from mcp_guard.config import load
from mcp_guard.core.approval import make_rule
from mcp_guard.core.approval_card import format_minute
from mcp_guard.core.approval_subject import NAME_USER
from mcp_guard.core.credential import InvalidCredential, may_use
from mcp_guard.core.errors import IdentityError
from mcp_guard.core.model import SECOND, Agent, Instance
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.nearest import nearest, suggest_tools
from mcp_guard.core.people import OWN_NAMES, Identity, find_requesters, fold
from mcp_guard.core.receipt import format_second
from mcp_guard.core.visible_text import quote, say
from mcp_guard.identity.instances import InstanceSpec, Issuer, Launch, random_text, start_instance
from mcp_guard.ledger import registry
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.server_log import note
from mcp_guard.settings import MAX_CREDENTIAL_DAYS, Settings
from mcp_guard.sign_ins import SignInStorage
from mcp_guard.start_notes import note_if_new
from mcp_guard.storage.rows import InstanceRow

CODE_SECONDS = 600
SCOPES = {
    "instance": "this instance",
    "agent": "every instance of this agent",
    "user": "every instance that acts for this user",
}
"""What `revoke` takes, and which instances it revokes."""


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    needs_instance = options.verb == "delegate" or (options.verb == "revoke" and options.instance)
    writer = open_writer(ledger_settings(settings), CLOCK, create=not needs_instance)
    if options.verb != "issue":
        note_if_new(writer, settings, note)
    verbs = {"list": show, "issue": issue, "delegate": delegate, "revoke": revoke}
    return verbs[options.verb](writer, settings, options)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mcp-guard instances", description="Issue, delegate and revoke the credentials of agent runs.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="list live instances")
    listing.add_argument("--all", action="store_true", help="include ended instances")
    issuing = verbs.add_parser("issue", help="issue a credential for one run and print it once")
    issuing.add_argument("--agent", metavar="AGENT", help="the enrolled agent (default: the only one)")
    issuing.add_argument("--on-behalf-of", metavar="USER", help="the user it acts for (default: the agent's)")
    delegating = verbs.add_parser("delegate", help="issue a narrower credential derived from another instance")
    delegating.add_argument("parent", metavar="INSTANCE")
    for verb in (issuing, delegating):
        verb.add_argument("--ticket", metavar="TICKET", help="the ticket this run works on")
        verb.add_argument("--reason", metavar="TEXT", help="the reason for this run")
        add_task(verb)
        verb.add_argument(
            "--ttl",
            type=lifetime,
            metavar="TIME",
            help=f"the lifetime of the credential: 900, 30m, 1h, at most {MAX_CREDENTIAL_DAYS}d"
            " (default: credential_seconds of the agent)",
        )
        verb.add_argument(
            "--tool",
            action="append",
            metavar="TOOL",
            help="a tool it may use, or `server__*`; may be repeated (default: all)",
        )
        verb.add_argument(
            "--thumbprint",
            type=_thumbprint,
            metavar="JKT",
            help="thumbprint of the key to prove (DPoP)",
        )
        verb.add_argument("--launch", action="store_true", help="print a one-time code for `run` instead of a token")
    revoking = verbs.add_parser("revoke", help="revoke credentials at once in every process, held calls included")
    which = revoking.add_mutually_exclusive_group(required=True)
    for scope, whose in SCOPES.items():
        which.add_argument(f"--{scope}", metavar=scope.upper(), help=f"revoke {whose}, and what it delegated")
    revoking.add_argument("--why", required=True, metavar="TEXT", help="the reason; recorded, and shown to approvers")
    revoking.add_argument(
        "--allow-new", action="store_true", help="let launches that share a revoked instance start another one"
    )
    add_signing_options(revoking)
    for verb in (listing, issuing, delegating, revoking):
        add_config(verb)
        add_json(verb)
    return parser


def _thumbprint(text: str) -> str:
    """RFC 7638 with SHA-256, in base64url."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}", text):
        raise argparse.ArgumentTypeError(f"`{text}` is not a thumbprint (RFC 7638): 43 characters of base64url")
    return text


def show(writer: Writer, _: Settings, options: argparse.Namespace) -> int:
    now = writer.now()
    rows = writer.store.instances(None if options.all else now)
    listed = [_describe(writer, row, now) for row in rows]
    if options.json:
        print_json(listed, indent=2)
        return 0
    headings = ("instance", "agent", "on_behalf_of", "ticket", "state", "expires", "tools")
    print_table(headings, ([plain(row[heading]) for heading in headings] for row in listed))
    return 0


def _describe(writer: Writer, row: InstanceRow, now: int) -> dict[str, object]:
    instance = row.instance
    if row.ended is not None:
        state = "ended"
    elif now >= instance.expires:
        state = "expired"
    elif registry.why_barred(writer.store, instance, now):
        state = "revoked"
    else:
        state = "running" if row.begun is not None else "issued"
    return {
        "instance": instance.id,
        "agent": instance.agent.name,
        "on_behalf_of": instance.on_behalf_of,
        "ticket": instance.task.ticket,
        "state": state,
        "expires": format_second(instance.expires // SECOND),
        "tools": list(instance.tools),
        "parents": list(instance.parents),
    }


def issue(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    enrolled = registry.find_agent(registry.all_agents(settings.agents, writer.store), options.agent)
    user = options.on_behalf_of or enrolled.on_behalf_of
    launch = Launch(enrolled.agent.name, read_ticket(options, settings), options.reason, user, read_task(options))
    note_unknown_user(settings, enrolled.agent, user)
    tools = check_tools(writer, settings, options.tool) or ("*",)
    charter = InstanceSpec(
        enrolled.agent, launch, options.ttl or enrolled.credential_seconds, tools, None, options.thumbprint or "",
        settings.audience,
    )  # fmt: skip
    note_long_lifetime(writer, charter.seconds, enrolled.credential_seconds)
    return _issue(writer, charter, options)


def note_long_lifetime(writer: Writer, seconds: int, default: int) -> None:
    """Say when a credential ends that lives longer than is usual for its agent."""
    if seconds > default:
        until = format_minute(writer.now() + seconds * SECOND)
        usual = f"{default // 3600}h" if default % 3600 == 0 else f"{default} seconds"
        longer = f"longer than the {usual} of `credential_seconds`"
        print_text(f"note: the credential is valid until {until}, {longer}", file=sys.stderr)


def note_unknown_user(settings: Settings, agent: Agent, user: str | None) -> None:
    """Say at once, not when a call is held, that the configuration does not know the user, and who may be meant."""
    approvers = {approver for route in settings.routes.values() for approver in route.approvers}
    identity = Identity(OWN_NAMES, user) if user else None
    is_unknown = find_requesters(settings.people, approvers, agent.owner, identity).is_user_unknown
    if not any(make_rule(route, is_unknown) != make_rule(route) for route in settings.routes.values()):
        return
    people = settings.people
    mapped = {identity.subject for identity in {*people.approvers, *people.others} if identity.issuer == OWN_NAMES}
    named = {*approvers, *people.names, *people.users, *mapped, agent.owner}
    near = next((name for name in sorted(named) if fold(name) == fold(str(user))), "") or nearest(str(user), named)
    what = say("the configuration names no user {}, so two people must approve a call that is held", quote(str(user)))
    advice = say("did you mean {}?", quote(near)) if near else NAME_USER
    print_text(say("note: {}; {}", what, advice), file=sys.stderr)


def delegate(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    parent = registry.find_instance(writer.store, options.parent)
    if why := registry.why_barred(writer.store, parent, writer.now()):
        raise IdentityError(f"instance `{parent.id}` cannot delegate: {why}", "mcp-guard instances list")
    ticket, task = read_ticket(options, settings) or parent.task.ticket, read_task(options) or parent.task.text
    launch = Launch(parent.agent.name, ticket, options.reason, parent.on_behalf_of, task)
    left = (parent.expires - writer.now()) // SECOND
    tools = check_tools(writer, settings, options.tool)
    charter = InstanceSpec(
        parent.agent, launch, options.ttl or left, tools, parent, options.thumbprint or "", settings.audience
    )
    return _issue(writer, charter, options)


def check_tools(writer: Writer, settings: Settings, patterns: Sequence[str] | None) -> tuple[str, ...]:
    """The tools that a credential is for. One of an upstream that has listed nothing yet cannot be checked.

    Raises: IdentityError for a pattern that matches no tool.
    """
    seen = writer.read(names_seen) if patterns else set()
    listed = {name.partition(SEPARATOR)[0] for name in seen}
    for pattern in patterns or ():
        if any(may_use((pattern,), name) for name in seen) or pattern == "*":
            continue
        name = pattern.removesuffix("*")
        unlisted = sorted(settings.upstreams.keys() - listed)
        if any(may_use((pattern,), server + SEPARATOR) or name.startswith(server + SEPARATOR) for server in unlisted):
            print_text(f"note: `{pattern}` was not checked: its upstream has not listed its tools yet", file=sys.stderr)
            continue
        upstream = nearest(name.partition(SEPARATOR)[0], settings.upstreams)
        hint = f"did you mean `{upstream}{SEPARATOR}*`?" if name != pattern and upstream else suggest_tools(name, seen)
        raise IdentityError(f"`{pattern}` matches no tool", hint)
    return tuple(patterns or ())


def _issue(writer: Writer, charter: InstanceSpec, options: argparse.Namespace) -> int:
    code = f"launch_{random_text(26)}" if options.launch else ""
    key = writer.key

    def op(tx: Transaction) -> Instance:
        instance, bound = start_instance(Issuer(key.origin, key.sign, key.public), charter, tx.now)
        registry.issue(tx, instance, bound | {"by": account()})
        if code:
            tx.store.add_launch(registry.hash_launch_code(code), instance.id, tx.now + CODE_SECONDS * SECOND)
        return instance

    try:
        instance = writer.run(op)
    except InvalidCredential as refused:
        raise IdentityError(str(refused), "mcp-guard instances list") from None
    until = datetime.fromtimestamp(instance.expires / SECOND, UTC)
    if options.json:
        given = {"launch": code} if code else {"token": instance.credential}
        print_json({"instance": instance.id, "expires": until.isoformat()} | given)
    else:
        print_text(code or instance.credential)
    return 0


def check_is_known(writer: Writer, settings: Settings, scope: str, name: str) -> None:
    """Whoever revokes must not believe that they have, because of a misspelt name. Raises: IdentityError."""
    agents = registry.all_agents(settings.agents, writer.store)
    instances = [row.instance for row in writer.store.instances()]
    if scope == "agent":
        known = {*agents, *(instance.agent.name for instance in instances)}
    else:
        users = (*(enrolled.on_behalf_of for enrolled in agents.values()), *(each.on_behalf_of for each in instances))
        known = {user for user in users if user}
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean `{near}`?" if near else "mcp-guard instances list --all"
        raise IdentityError(f"nothing was revoked: there is no instance of the {scope} `{name}`", hint)


def revoke(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    scope = next(candidate for candidate in SCOPES if getattr(options, candidate))
    name = getattr(options, scope)
    if scope == "instance":
        registry.find_instance(writer.store, name)
    else:
        check_is_known(writer, settings, scope, name)
    if (signer := open_signer(writer, settings, options)) is not None:
        if options.allow_new:
            raise IdentityError("`--allow-new` is not part of what `--as` signs", "leave out one of them")
        done = signer.perform(f"{scope}.revoke", {"name": name}, options.why)
        ids, withdrawn = done["instances"], done["withdrawn"]
    else:
        key, allow_new = (scope, name), options.allow_new
        gone, withdrawn = writer.run(
            lambda tx: registry.revoke_with_requests(tx, key, options.why, account(), allow_new=allow_new)
        )
        ids = [instance.id for instance in gone]
    signed_out = asyncio.run(SignInStorage(settings, note).forget(name)) if scope == "user" else []
    message = f"revoked {scope} `{name}`; {revoked_text(ids, withdrawn)}"
    message += f"; signed them out of {', '.join(f'`{upstream}`' for upstream in signed_out)}" if signed_out else ""
    answer = {"scope": scope, "name": name, "instances": ids, "withdrawn": withdrawn}
    print_result(options.json, answer | ({"signed_out": signed_out} if signed_out else {}), message)
    return 0
