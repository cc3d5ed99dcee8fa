"""`mcp-guard doctor`: diagnose problems and suggest fixes."""

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace

from mcp_guard.cli.client import connect
from mcp_guard.cli.client_files import client_files, find_reached
from mcp_guard.cli.client_hooks import inspect_hooks
from mcp_guard.cli.configured_names import describe_unmatched
from mcp_guard.cli.group_names import all_unnamed_groups
from mcp_guard.cli.guard_answers import GuardEnded, UnusableAnswer
from mcp_guard.cli.hidden_tools import find_hidden
from mcp_guard.cli.options import add_json, make_parser
from mcp_guard.cli.output import print_json, print_table, print_text, to_type
from mcp_guard.cli.policy.inputs import recorded_environment
from mcp_guard.cli.upstreams import list_tools
from mcp_guard.config import load
from mcp_guard.core.errors import GuardError, LedgerError
from mcp_guard.core.model import Mode, Tool
from mcp_guard.core.replies import AWAIT, REQUESTS
from mcp_guard.diagnostics.checks import run_checks, worst_level
from mcp_guard.diagnostics.configured_secrets import inspect_secrets
from mcp_guard.diagnostics.identity_provider import inspect_provider
from mcp_guard.diagnostics.outgoing import outgoing_routes
from mcp_guard.diagnostics.pages import inspect_pages
from mcp_guard.diagnostics.policy_approval import as_in_force, inspect_policy_approval
from mcp_guard.diagnostics.results import CheckResult
from mcp_guard.diagnostics.running_guards import differences, installed_guard, read_started
from mcp_guard.diagnostics.snapshot import AbsentUpstream, GuardSnapshot, RefusalTest, ResultLevel, TrialConnection
from mcp_guard.diagnostics.state_folder import StateFolder, inspect_state_folder
from mcp_guard.diagnostics.trial_calls import run_refusal_tests
from mcp_guard.exposure import is_served_unencrypted
from mcp_guard.extras import missing_extras
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.keys import SigningKey
from mcp_guard.ledger.open import LedgerSettings, configured_keys, ledger_settings
from mcp_guard.ledger.verification_note import why_discontinued
from mcp_guard.policy.engine import PolicyEnvironment, load_policies
from mcp_guard.policy.files import unread_folders
from mcp_guard.settings import Settings
from mcp_guard.storage.engines import open_read_only
from mcp_guard.storage.place import Place
from mcp_guard.upstream.last_words import LastWords
from mcp_guard.verifier.report import count

EXIT_CODES = {ResultLevel.OK: 0, ResultLevel.WARNING: 1, ResultLevel.PROBLEM: 2}


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    connection = None if options.connect is None else try_connection(settings, options.connect)
    results = run_checks(replace(look(settings, options.upstreams, options.json), connection=connection))
    results = [replace(result, fix=to_type(result.fix)) for result in results]
    if options.json:
        print_json([asdict(result) for result in results], indent=2)
    else:
        print_table(("check", "", "what", "fix"), map(row, results))
        levels = Counter(result.level for result in results)
        chosen = sum(result.is_choice for result in results)
        note = f" ({chosen} by choice)" if chosen else ""
        print_text(
            f"{count(levels[ResultLevel.PROBLEM], 'problem')}, {count(levels[ResultLevel.WARNING], 'warning')}{note}"
        )
    return EXIT_CODES[worst_level(results)]


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "doctor",
        "Diagnose problems and suggest fixes. "
        "Exit code 0: no findings, or only what you chose (solo mode), 1: warnings, 2: problems.",
    )
    parser.add_argument(
        "--upstreams", action="store_true", help="also start the upstreams and check the policies against the tools"
    )
    parser.add_argument(
        "--connect", nargs="?", const="", metavar="AGENT",
        help="also start a guard as an MCP client does, as this agent (default: the only one), which the ledger has",
    )  # fmt: skip
    add_json(parser)
    return parser


def row(result: CheckResult) -> Sequence[object]:
    return result.check, str(result.level), result.what, result.fix


def look(settings: Settings, start_upstreams: bool, quiet: bool) -> GuardSnapshot:
    """Collect everything that the checks need; what cannot be read becomes a finding, not an error of this command."""
    ledger = ledger_settings(settings)

    def find_key(verifier: str) -> SigningKey:
        return configured_keys(ledger).find_key(verifier)

    state = inspect_state_folder(settings.state_dir, ledger.place, find_key)
    snapshot = {field.name: getattr(state, field.name) for field in fields(StateFolder)}
    tools: list[Tool] = []
    absent: Mapping[str, LastWords | None] = dict.fromkeys(settings.upstreams)
    if start_upstreams:
        tools, absent = list_tools(settings, quiet)
    environment = recorded_environment(settings, tools, absent)
    with as_in_force(settings, ledger.place) as judged:
        snapshot["policies_failure"], snapshot["policies_note"], refusal_tests = check_policies(judged, environment)
        snapshot["hidden"] = tuple(find_hidden(judged, environment if tools else None))
        unnamed = tuple(all_unnamed_groups(judged))
    return GuardSnapshot(
        now=CLOCK.wall(),
        user=os.geteuid(),
        unread_policies=tuple(map(str, unread_folders(settings.policies))),
        policy_approval=inspect_policy_approval(settings, ledger.place),
        agents=tuple((name, (agent.agent.owner, agent.on_behalf_of)) for name, agent in settings.agents.items()),
        approvers=frozenset(settings.approvers),
        routes=tuple(settings.routes.values()),
        has_upstreams=bool(settings.upstreams),
        absent=tuple(absent_upstream(settings, *item) for item in sorted(absent.items())) if start_upstreams else (),
        refusal_tests=tuple(refusal_tests),
        is_observing=settings.mode is Mode.OBSERVE,
        unsafe_keys=settings.unsafe_keys,
        decide=settings.decide,
        clients=tuple(client_files(settings.path)),
        unmapped_issuers=unmapped_issuers(settings),
        outgoing=outgoing_routes(settings),
        is_served_unencrypted=is_served_unencrypted(settings.serve),
        unmatched_names=tuple(find_unmatched_names(settings, environment, start_upstreams)),
        unmatched_arguments=tuple(find_unmatched_arguments(settings, environment)),
        discontinued=find_discontinued(ledger),
        outdated=find_outdated(settings, ledger.place, state.running),
        unnamed_groups=unnamed,
        reached=find_reached(settings),
        missing_extras=tuple(missing_extras(settings)),
        secrets=inspect_secrets(settings),
        pages=inspect_pages(settings.web, CLOCK.wall()),
        provider=inspect_provider(settings),
        hooks=inspect_hooks(settings),
        **snapshot,
    )


def try_connection(settings: Settings, agent: str) -> TrialConnection:
    """Use the guard as the official MCP client does."""
    try:
        with connect(settings.path, ["--agent", agent] if agent else [], lambda *_: None) as client:
            tools = [tool for tool in client.tools() if tool["name"] not in (AWAIT, REQUESTS)]
            return TrialConnection(client.protocol_version, len(tools))
    except (GuardEnded, UnusableAnswer) as failure:
        return TrialConnection(failure=str(failure))


def find_discontinued(ledger: LedgerSettings) -> str:
    """How the ledger contradicts its last verification; empty if it cannot be read, which another check reports."""
    try:
        with open_read_only(ledger.place) as store:
            return why_discontinued(store, ledger.state_dir)
    except LedgerError:
        return ""


def find_outdated(settings: Settings, place: Place, running: list[str]) -> tuple[str, ...]:
    """How the running guards differ from one that was started now. A ledger that cannot be read is reported anyway."""
    with suppress(LedgerError):
        started = read_started(place, running) if running else ()
        return tuple(line for guard in started for line in differences(guard, installed_guard(settings)))
    return ()


def absent_upstream(settings: Settings, name: str, last_words: LastWords | None) -> AbsentUpstream:
    url = settings.upstreams[name].url
    if last_words is None:
        return AbsentUpstream(name, url=url)
    return AbsentUpstream(name, last_words.summary, last_words.lacked, last_words.hint, url)


def find_unmatched_names(
    settings: Settings, environment: PolicyEnvironment, are_listed: bool
) -> Iterator[tuple[str, ResultLevel]]:
    """The names in the configuration that no tool has. A misspelt one is a problem if the listings are those of now."""
    unmatched = environment.unmatched()
    for name, text in zip(unmatched, describe_unmatched(settings, unmatched), strict=True):
        yield text, ResultLevel.PROBLEM if are_listed and name.is_misspelt else ResultLevel.WARNING


def find_unmatched_arguments(settings: Settings, environment: PolicyEnvironment) -> Iterator[tuple[str, ResultLevel]]:
    """The arguments in the configuration that no tool declares. One that would be stored in clear is a problem."""
    unmatched = environment.unmatched_arguments()
    for argument, text in zip(unmatched, describe_unmatched(settings, unmatched), strict=True):
        yield text, ResultLevel.PROBLEM if argument.configured.is_redacted else ResultLevel.WARNING


def unmapped_issuers(settings: Settings) -> tuple[str, ...]:
    """Issuers of tokens that no identity of an approver or other person is of."""
    people = settings.people
    known = {identity.issuer for identity in (*people.approvers, *people.others)}
    issuers = [str(issuer["issuer"]) for issuer in settings.serve.issuers] if settings.serve else []
    return tuple(issuer for issuer in issuers if issuer not in known)


def check_policies(
    settings: Settings, environment: PolicyEnvironment
) -> tuple[tuple[str, str] | None, str, list[RefusalTest]]:
    """Why the policies do not load (message and hint), how they were checked, and the calls that were tried."""
    try:
        load_policies(settings.policies, environment)
        number = len(environment.tools)
        against = f"against {number} tools" if number else "without the tools; --upstreams checks against them"
        return None, f"loaded, {against}", run_refusal_tests(settings, environment)
    except GuardError as error:
        return (error.full, error.hint), "", []
