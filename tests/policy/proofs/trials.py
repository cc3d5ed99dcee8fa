"""Compares the solver with Cedar: random policies and requests, in both directions.

*Forwards*, a random request is given to both: does each policy apply, and does its evaluation fail? *Backwards*, the
solver looks for a request that random policies decide in a certain way, and Cedar decides that request.

    python -m tests.policy.proofs.trials --trials 100000
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from mcp_guard.core.model import Json, Outcome
from mcp_guard.policy.authoring.recorded import PolicyVersion
from mcp_guard.policy.proofs.claims import Never, NeverMorePermissive
from mcp_guard.policy.proofs.decisions import Decisions, ReadPolicies
from mcp_guard.policy.proofs.expressions import Condition
from mcp_guard.policy.proofs.prover import ProofVerdict, Prover
from mcp_guard.policy.proofs.terms import Term, Terms
from mcp_guard.policy.proofs.times import read_literal
from mcp_guard.policy.proofs.unknown_request import TAG, UnknownRequest
from mcp_guard.policy.proofs.values import SetValue
from mcp_guard.policy.ruleset import action_groups, evaluate
from mcp_guard.policy.source import Policy, parse_texts
from tests.policy.proofs.random_policies import NAMES, SCHEMA, RandomPolicies, random_request

GROUPS = action_groups(SCHEMA.json)
REQUESTS = 8
"""Random requests for each set of policies."""
POLICIES = 6
MILLISECONDS = 2000
PATIENT = 60_000
"""For questions that are easy, on a busy machine too."""


def random_set(random: Random, tool: str, count: int = POLICIES) -> dict[str, Policy]:
    text = RandomPolicies(random, tool).policies(random.randint(1, count))
    source, problems = parse_texts({"random.cedar": text}, None)
    assert problems == [], text
    return dict(source.policies)


@dataclass
class Tally:
    """How many trials there were, by what they compared, and in words how the solver and Cedar differed."""

    trials: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


class Forwards:
    """Random requests for random policies, given to both."""

    def __init__(self, random: Random, tally: Tally) -> None:
        self._random, self._tally = random, tally
        self._terms = Terms()

    def run(self, requests: int = REQUESTS) -> None:
        tool = self._random.choice(NAMES)
        policies = random_set(self._random, tool)
        request = UnknownRequest(self._terms, SCHEMA.json, tool, SCHEMA.shapes[tool])
        decisions = Decisions(request, GROUPS, ReadPolicies())
        exact: dict[str, Condition] = {}
        for policy in policies.values():
            condition = decisions.conditions(policy)
            if not decisions.expressions.inexact:
                exact[policy.id] = condition
            decisions.expressions.inexact.clear()
        decision = decisions.decide(policies.values())
        version = PolicyVersion("random", policies, SCHEMA.json)
        permits = {id: replace(policy, body={**policy.body, "effect": "permit"}) for id, policy in policies.items()}
        all_permits = version.under(permits)
        for _ in range(requests):
            material = random_request(self._random, tool)
            cedar = version.build_request(material)
            solver = self._terms.solver(PATIENT)
            solver.assertFormula(self._terms.all(*assignments(request, material)))
            assert solver.checkSat().isSat()
            found = evaluate(cedar.request, all_permits.rules.whole().full, cedar.entities)
            failed = {id for id in policies if any(f"`{id}`" in error for error in found.errors)}
            for id, condition in exact.items():
                solved = [solver.getValue(term).getBooleanValue() for term in condition]
                self._note("condition", solved == [id in found.determining, id in failed], policies[id], material)
            outcome = version.decide(cedar)
            same = [self._terms.equal(decision.lets, self._terms.boolean(outcome.outcome is not Outcome.DENY))]
            if outcome.outcome is not Outcome.DENY:
                same += [
                    self._terms.equal(needed, self._terms.boolean(route in outcome.routes))
                    for route, needed in decision.routes.items()
                ]
            solver.assertFormula(self._terms.all(*same))
            self._note("decision", solver.checkSat().isSat(), outcome, policies, material)

    def _note(self, what: str, is_same: bool, *shown: object) -> None:
        self._tally.trials[what] += 1
        if not is_same:
            self._tally.differences.append(f"{what}: {shown}")


def backwards(random: Random, tally: Tally) -> None:
    """Random claims, whose counterexamples are decided by the guard."""
    tool = random.choice(NAMES)
    policies, when = random_set(random, tool), random_set(random, tool, 1)["p0"]
    changed = {**policies, **random_set(random, tool, 2)}
    when = replace(when, body={**when.body, "effect": "permit"}, routes=())
    claims = (NeverMorePermissive(policies, changed), NeverMorePermissive(changed, policies), Never(policies, when),
              Never(policies, when, "people"))  # fmt: skip
    prover = Prover(SCHEMA, MILLISECONDS)
    for claim in claims:
        for proof in prover.prove(claim):
            tally.trials[proof.verdict] += 1
            if proof.verdict is ProofVerdict.DEFECT:
                tally.differences.append(f"{proof}: {claim}")


def run(seed: int, trials: int) -> Tally:
    """At least so many trials."""
    random, tally = Random(seed), Tally()
    forwards = Forwards(random, tally)
    while tally.trials.total() < trials:
        forwards.run()
        backwards(random, tally)
    return tally


def assignments(request: UnknownRequest, material: Json) -> Iterator[Term]:
    """That each unknown of the request has the value that it has in this one."""
    terms = request.terms
    asked, entities = material["request"], {each["uid"]["id"]: each for each in material["entities"]}
    roots = {
        "context": asked["context"],
        "principal": entities[asked["principal"]["id"]]["attrs"],
        "resource": next((each["attrs"] for each in material["entities"] if each["uid"] == asked["resource"]), {}),
    }
    yield terms.equal(request.principal.id, terms.text(asked["principal"]["id"]))
    yield terms.equal(request.resource.id, terms.text(asked["resource"]["id"]))
    yield terms.equal(request.agent.id, terms.text(material["entities"][0]["parents"][0]["id"]))
    groups = [terms.text(group["id"]) for group in material["entities"][1]["parents"]]
    yield terms.equal(request.groups.term, terms.set(terms.sorts["String"], groups))
    roots[TAG] = tags = material["entities"][-1].get("tags", {})
    for key, tag in request.tags.items():
        yield terms.equal(tag.present, terms.boolean(key in tags))

    def find(path: tuple[str, ...]) -> Any:
        value = roots[path[0]]
        for name in path[1:]:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    for path, present in request.presences.items():
        yield terms.equal(present, terms.boolean(find(path) is not None))
    for path, leaf in request.leaves.items():
        if (value := find(path)) is None:
            continue
        if isinstance(leaf.value, SetValue):
            elements = [_term(terms, leaf.value.element, each) for each in value]
            yield terms.equal(leaf.value.term, terms.set(terms.sorts[leaf.value.element], elements))
        else:
            yield terms.equal(leaf.value.term, _term(terms, leaf.value.type, value))


def _term(terms: Terms, type: str, value: Any) -> Term:
    if isinstance(value, bool):
        return terms.boolean(value)
    if isinstance(value, str):
        return terms.text(value)
    return terms.number(value if isinstance(value, int) else read_literal(type, value["__extn"]["arg"]))


def main() -> int:
    parser = argparse.ArgumentParser(description="compare the solver with Cedar")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun = time.monotonic()
    tally = run(options.seed, options.trials)
    counts = ", ".join(f"{count:,} {what}" for what, count in sorted(tally.trials.items()))
    print(f"{tally.trials.total():,} trials in {time.monotonic() - begun:.0f} s: {counts}")
    for difference in tally.differences[:5]:
        print(difference, file=sys.stderr)
    print(f"{len(tally.differences)} differences")
    return 1 if tally.differences else 0


if __name__ == "__main__":
    sys.exit(main())
