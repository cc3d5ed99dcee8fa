"""`mcp-guard policy lint` and `policy validate`: check policies for mistakes and against the current tools."""

import argparse
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from mcp_guard.cli.configured_names import describe_unmatched
from mcp_guard.cli.enrolled_agents import enrolled_agents
from mcp_guard.cli.options import add_json, make_parser
from mcp_guard.cli.output import print_json, print_lines, print_result, print_text
from mcp_guard.cli.policy.inputs import (
    known_environment,
    listed_world,
    load_checked,
    no_tools_from,
    see_stderr,
    settings_of_cases,
)
from mcp_guard.config import load
from mcp_guard.core.configured_names import ConfiguredName
from mcp_guard.core.decided_methods import METHODS
from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.names import is_short_form
from mcp_guard.policy.authoring.lint import WARNINGS_OF_VALIDATE, LintFinding, lint, read_lint_input
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment
from mcp_guard.policy.files import unread_folders
from mcp_guard.policy.source import EFFECTS, ListedNames, PolicyProblem, read_files
from mcp_guard.settings import Settings


def main(arguments: list[str]) -> int:
    """Exit codes: 0 nothing but notes, 1 an error or a warning."""
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    environment, source = known_environment(settings, options.live, options.json)
    agents = {name: enrolled.agent.groups for name, enrolled in enrolled_agents(settings).items()}
    rates = {counter.name: counter.by for counter in settings.counters}
    texts = read_files(options.path or settings.policies)
    routes, has_time_zone = tuple(settings.routes), settings.has_time_zone
    linted = read_lint_input(
        texts,
        None,
        routes,
        agents,
        rates,
        environment=environment,
        has_time_zone=has_time_zone,
        signals=settings_of_cases(settings).all_signals(),
    )
    findings = [*lint(linted), *(undeclared_arguments(settings, environment) if environment else ())]
    wrong = [finding for finding in findings if finding.level != "note"]
    if options.json:
        print_json({"schema": source, "findings": [asdict(finding) for finding in findings]}, indent=2)
        return 1 if wrong else 0
    print_lines(line for finding in findings for line in lines(finding))
    counts = f"{len(linted.policies)} policies, findings: {len(wrong)}, notes: {len(findings) - len(wrong)}"
    print_text(f"{counts}; {source}")
    return 1 if wrong else 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "policy lint", "Find policies that are valid but probably wrong, and those that would not load."
    )
    parser.add_argument(
        "path", nargs="?", type=Path, metavar="PATH", help="a folder or file (default: the configured policies)"
    )
    parser.add_argument(
        "--live", action="store_true", help="start the upstreams instead of using the tools listed last"
    )
    add_json(parser)
    return parser


def lines(finding: LintFinding) -> list[str]:
    problem = PolicyProblem(finding.file, finding.policy, finding.what, finding.at)
    return [f"{finding.level}: {problem}", f"    hint: {finding.fix}"]


def validate(arguments: list[str]) -> int:
    """Exit code: 0, whatever it warns of; an error is raised."""
    options = build_validate_parser().parse_args(arguments)
    settings = load(options.config)
    world = listed_world(settings, options.json)
    if not world.tools and world.absent:
        raise UpstreamError(f"{no_tools_from(world)}, so no policy can be checked", see_stderr(settings, world.absent))
    engine = load_checked(settings, world)
    tools, absent = len(world.tools), sorted(world.absent)
    texts, routes, signals = engine.source.texts, tuple(settings.routes), settings_of_cases(settings).all_signals()
    linted = read_lint_input(texts, None, routes, {}, environment=world, signals=signals)
    undeclared = (replace(finding, level="warning") for finding in undeclared_arguments(settings, world))
    findings = [*lint(linted, WARNINGS_OF_VALIDATE), *undeclared]
    document = {
        "version": engine.version,
        "tools": tools,
        "dormant": list(engine.dormant),
        "absent": absent,
        "findings": [asdict(finding) for finding in findings],
    }
    print_result(options.json, document, f"valid against {tools} tools, version {engine.version}")
    if not options.json:
        notes = [f"{no_tools_from(world)}: policies on them are checked once they list some"] if absent else []
        names = {tool.listed_as for tool in (*world.tools, *world.operations)}
        unlisted = unlisted_names(settings.configured_names, names)
        print_lines(line for finding in findings for line in lines(finding))
        notes += [f"{folder}: not read, because it is a folder" for folder in unread_folders(settings.policies)]
        print_lines([*notes, *dormant_notes(engine, world.listed()), *unlisted])
    return 0


def undeclared_arguments(settings: Settings, environment: PolicyEnvironment) -> Iterator[LintFinding]:
    """The arguments in the configuration that no tool declares: an error if they would be stored in clear."""
    unmatched = environment.unmatched_arguments()
    for argument, what in zip(unmatched, describe_unmatched(settings, unmatched), strict=True):
        level = "error" if argument.configured.is_redacted else "warning"
        fix = f"correct the name; mcp-guard tools show {argument.configured.tool} lists the arguments"
        yield LintFinding("", "", what, fix, level)


def dormant_notes(engine: PolicyEngine, listed: ListedNames) -> Iterator[str]:
    """A line for each policy that matches nothing now, and for each known tool that another one names in vain."""
    for id, policy in engine.source.policies.items():
        unlisted = sorted(listed.unlisted([policy]))
        names = ", ".join(f"`{name}`" for name in unlisted)
        effects = " or ".join(f"`{name}`" for name in unlisted if name in EFFECTS)
        if id in engine.dormant and effects and EFFECTS.issuperset(unlisted):
            yield f"  {id}: inactive: no listed tool has the effect {effects}"
        elif id in engine.dormant and unlisted and METHODS.keys() >= set(unlisted):
            yield f"  {id}: inactive until {names} is decided (`decide` in [guard]) and a server offers it"
        elif id in engine.dormant:
            yield f"  {id}: inactive until {names or 'its tools'} {'is' if len(unlisted) == 1 else 'are'} listed"
        elif known := ", ".join(f"`{name}`" for name in unlisted if not listed.is_unknown_tool(name)):
            yield f"  {id}: {known} not listed at present"


def unlisted_names(configured: Iterable[ConfiguredName], listed: Collection[str]) -> Iterator[str]:
    """A line for each name in the configuration that no tool has at present."""
    for entry in configured:
        if entry.name not in listed:
            meant = next(
                (f"; did you mean `{tool}`?" for tool in sorted(listed) if is_short_form(entry.name, tool)), ""
            )
            yield f"  {entry.title}: not listed at present{meant}"


def build_validate_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "policy validate", "Check the policies against the tools that are listed now. Starts the upstreams."
    )
    add_json(parser)
    return parser
