"""`mcp-guard policy prove`: prove statements about the policies for all requests, or show one that disproves them."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_guard.cli.options import add_json, make_parser, whole_number
from mcp_guard.cli.output import print_json, print_lines, print_text
from mcp_guard.cli.policy.inputs import known_environment
from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError, PolicyError
from mcp_guard.core.model import Json
from mcp_guard.core.nearest import nearest
from mcp_guard.core.visible_text import join, say
from mcp_guard.policy.engine import PolicyEnvironment, load_policies
from mcp_guard.policy.proofs.selection import check_selection, select_calls
from mcp_guard.policy.source import Policy
from mcp_guard.policy.validation import ValidationSchema
from mcp_guard.settings import Settings
from mcp_guard.verifier.report import count

if TYPE_CHECKING:
    from mcp_guard.policy.proofs.claims import Claim
    from mcp_guard.policy.proofs.prover import Prover, ToolProof

CODES = {"proved": 0, "disproved": 1, "not proved": 10, "defect": 11}
"""Exit codes by verdict."""
SHOWN = 3
"""How many counterexamples are printed."""
Policies = Mapping[str, Policy]


def main(arguments: list[str]) -> int:
    """Exit codes: 0 proved, 1 disproved, 10 not proved, 11 a counterexample that Cedar does not confirm."""
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    environment, source = known_environment(settings, options.live, options.json)
    if environment is None:
        raise PolicyError("no tools are known yet", "start the upstreams: mcp-guard policy prove --live …")
    policies = load_policies(options.candidate or settings.policies, environment).rules.policies
    older = options.never_more_permissive_than
    other = load_policies(older, environment).rules.policies if older else None
    when = _read_selection(options, settings, environment)
    prover = _make_prover(
        environment, [*policies.values(), *(other or {}).values(), *([when] if when else [])], options.seconds
    )
    if when is None and other is None:
        return _report_set(prover, policies, options.json)
    return _report_claim(prover, _claim(options, policies, other, when), when, options, source)


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "policy prove",
        "Prove a statement about the policies for all requests, or show one that disproves it. Without a statement: "
        "find policies that apply to no request, and policies that are equal.",
    )
    statement = parser.add_mutually_exclusive_group()
    statement.add_argument(
        "--never-more-permissive-than",
        type=Path,
        metavar="OLD",
        help="no call happens that OLD does not let happen",
    )
    statement.add_argument(
        "--needs", nargs=2, metavar=("ROUTE", "ACTION"), help="no such call happens without approval by this route"
    )
    statement.add_argument("--never", metavar="ACTION", help="no such call happens, with or without approval")
    parser.add_argument("--when", metavar="EXPR", help="only calls that satisfy this condition, in Cedar's syntax")
    parser.add_argument(
        "--candidate", type=Path, metavar="PATH", help="policies to look at (default: the configured ones)"
    )
    parser.add_argument(
        "--live", action="store_true", help="start the upstreams instead of using the tools listed last"
    )
    parser.add_argument(
        "--seconds",
        type=whole_number(1),
        default=10,
        metavar="N",
        help="how long to think about one question (default 10)",
    )
    add_json(parser)
    return parser


def _read_selection(options: argparse.Namespace, settings: Settings, environment: PolicyEnvironment) -> Policy | None:
    """The calls that `--needs` or `--never` is about. Raises: ConfigError, PolicyError."""
    action = options.needs[1] if options.needs else options.never
    if action is None:
        if options.when is not None:
            raise PolicyError("--when says which calls --needs or --never is about", "mcp-guard policy prove --help")
        return None
    if options.needs and options.needs[0] not in settings.routes:
        near = nearest(options.needs[0], settings.routes)
        hint = f"did you mean `{near}`?" if near else f"routes: {', '.join(settings.routes)}"
        raise ConfigError(f"route `{options.needs[0]}` is not in [routes] of the configuration", hint)
    policy = select_calls(action, options.when)
    schema = environment.schema_for([policy])
    check_selection(policy, action, ValidationSchema(schema.json, environment.without_facts(), shapes=schema.shapes))
    return policy


def _make_prover(environment: PolicyEnvironment, policies: list[Policy], seconds: int) -> "Prover":
    """Raises: ConfigError without the solver."""
    try:
        from mcp_guard.policy.proofs.prover import Prover
    except ImportError as error:
        from mcp_guard.extras import lacks

        missing = lacks("`policy prove`", "proofs", error)
        raise ConfigError(missing.what, missing.hint) from None
    return Prover(environment.schema_for(policies), seconds * 1000)


def _claim(options: argparse.Namespace, policies: Policies, other: Policies | None, when: Policy | None) -> "Claim":
    from mcp_guard.policy.proofs.claims import Never, NeverMorePermissive

    if other is not None:
        return NeverMorePermissive(policies, other)
    assert when is not None
    return Never(policies, when, options.needs[0] if options.needs else None)


def statement(options: argparse.Namespace) -> str:
    """What is to be proved, in words."""
    if options.never_more_permissive_than:
        return say("never more permissive than `{}`", options.never_more_permissive_than)
    calls = say("no call of `{}`", options.never or options.needs[1])
    parts = [calls, say("without approval by `{}`", options.needs[0])] if options.needs else [calls]
    return join(" ", [*parts, say("when `{}`", options.when)] if options.when else parts)


def _report_claim(
    prover: "Prover", claim: "Claim", when: Policy | None, options: argparse.Namespace, source: str
) -> int:
    from mcp_guard.policy.proofs.prover import ProofVerdict, overall

    proofs = prover.prove(claim)
    verdict = overall(proofs)
    notes = []
    if verdict is ProofVerdict.PROVED and when is not None and not prover.can_apply(when):
        notes.append("no request satisfies the condition, so this says nothing about the policies")
    if options.json:
        tools = [as_json(proof) for proof in proofs]
        print_json({"statement": statement(options), "verdict": verdict, "tools": tools, "notes": notes}, indent=2)
        return CODES[verdict]
    print_text(say("{}: {}", verdict, statement(options)))
    print_lines(_describe(proofs))
    print_lines(f"note: {note}" for note in notes)
    print_text(f"for every request of {count(len(proofs), 'tool')}; {source}")
    return CODES[verdict]


def _describe(proofs: Iterable["ToolProof"]) -> Iterable[str]:
    """Counterexamples first, then what is not proved and why."""
    from mcp_guard.policy.proofs.description import lines
    from mcp_guard.policy.proofs.prover import ProofVerdict

    disproved = [proof for proof in proofs if proof.verdict is ProofVerdict.DISPROVED]
    for proof in disproved[:SHOWN]:
        assert proof.counterexample is not None
        yield f"{proof.tool}, confirmed by Cedar:"
        yield from (f"  {line}" for line in lines(proof.counterexample))
    if len(disproved) > SHOWN:
        others = ", ".join(proof.tool for proof in disproved[SHOWN:])
        yield f"and {count(len(disproved) - SHOWN, 'more tool')}: {others}"
    for proof in proofs:
        if proof.verdict is ProofVerdict.NOT_PROVED:
            yield f"{proof.tool}: not proved: {'; '.join(proof.why)}"
        if proof.verdict is ProofVerdict.DEFECT and proof.counterexample:
            yield f"{proof.tool}: Cedar does not confirm this: a defect of `policy prove`, please report it:"
            yield from (f"  {line}" for line in lines(proof.counterexample))


def as_json(proof: "ToolProof") -> Json:
    document: Json = {"tool": proof.tool, "verdict": proof.verdict, "why": list(proof.why), "counterexample": None}
    if (found := proof.counterexample) is not None:
        sides = {"decided": found.outcome, "before": found.was}
        document["counterexample"] = found.material | {
            name: {"outcome": side.outcome, "policies": side.policies, "routes": side.routes, "errors": side.errors}
            for name, side in sides.items()
            if side is not None
        }
    return document


def _report_set(prover: "Prover", policies: Policies, json: bool) -> int:
    """Exit codes: 0 none found, 1 some found, 10 not known of some."""
    dead, unknown = prover.find_dead(policies)
    equal = prover.find_equal({id: policy for id, policy in policies.items() if id not in dead})
    if json:
        print_json({"dead": dead, "equal": equal, "not_proved": unknown}, indent=2)
    else:
        print_lines(f"`{id}` applies to no request" for id in dead)
        print_lines(f"equal: {', '.join(f'`{id}`' for id in ids)} apply to the same requests" for ids in equal)
        print_lines(f"`{id}`: not proved: {why}" for id, why in unknown.items())
        applying = len(policies) - len(dead) - len(unknown)
        print_text(
            f"{applying} of {len(policies)} policies apply to some request of {count(len(prover.tools), 'tool')}"
        )
    return CODES["disproved" if dead or equal else "not proved" if unknown else "proved"]
