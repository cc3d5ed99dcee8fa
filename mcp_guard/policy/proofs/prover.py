"""Proves claims about policies for every request of every tool, or finds a request that disproves them.

A claim is proved if the solver knows that no request is an exception. What the solver takes for an exception is made
a request, and decided by the guard's own decision function; only if it is an exception there does it disprove the
claim. If the solver gives up, or may be wrong because an expression or a hidden argument has no exact counterpart in
it, the claim is not proved. Anything else is a defect of the encoding, and is reported as one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from mcp_guard.core.decision import PolicyOutcome
from mcp_guard.core.model import Json
from mcp_guard.policy.authoring.counterfactual import ABSENT, value_at
from mcp_guard.policy.cedar_text import Path
from mcp_guard.policy.proofs.claims import Claim, Policies
from mcp_guard.policy.proofs.concrete import ConcreteRequest, preferences
from mcp_guard.policy.proofs.decisions import Decisions, ReadPolicies
from mcp_guard.policy.proofs.terms import SolverAnswer, Term, Terms, Unencodable, can_hold
from mcp_guard.policy.proofs.trial import RequestTrial
from mcp_guard.policy.proofs.unknown_request import UnknownRequest
from mcp_guard.policy.ruleset import Ruleset, action_groups
from mcp_guard.policy.schema import CatalogSchema
from mcp_guard.policy.source import Policy

MILLISECONDS = 10_000
"""How long the solver may think about one question by default."""


class ProofVerdict(StrEnum):
    """What is known of a claim."""

    PROVED = "proved"
    DISPROVED = "disproved"
    NOT_PROVED = "not proved"
    DEFECT = "defect"


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A request that disproves a claim, and what the policies in question decide about it.

    `read` are the parts of it that policies read. `was` is the outcome under the policies that they are compared with.
    """

    material: Json
    read: tuple[Path, ...]
    outcome: PolicyOutcome
    was: PolicyOutcome | None = None

    def given(self) -> list[Path]:
        """The parts that policies read and the request has."""
        return [path for path in self.read if value_at(self.material, path) not in (ABSENT, [])]


@dataclass(frozen=True, slots=True)
class ToolProof:
    """What is known of a claim about the calls of one tool; `why` there is neither a proof nor a counterexample."""

    tool: str
    verdict: ProofVerdict
    counterexample: Counterexample | None = None
    why: tuple[str, ...] = ()


def overall(proofs: Iterable[ToolProof]) -> ProofVerdict:
    """The verdict on a claim about all these tools."""
    verdicts = {proof.verdict for proof in proofs}
    worst_first = (ProofVerdict.DEFECT, ProofVerdict.DISPROVED, ProofVerdict.NOT_PROVED)
    return next((verdict for verdict in worst_first if verdict in verdicts), ProofVerdict.PROVED)


class Prover:
    """Answers questions about the requests that fit this schema; each question to the solver once."""

    def __init__(self, schema: CatalogSchema, milliseconds: int = MILLISECONDS) -> None:
        self._schema, self._milliseconds = schema, milliseconds
        self._groups = action_groups(schema.json)
        self._terms, self._known = Terms(), ReadPolicies()
        self._answers: dict[Term, SolverAnswer] = {}
        actions = schema.json[""]["actions"].items()
        self.tools = sorted(name for name, action in actions if action and "appliesTo" in action)

    @property
    def questions(self) -> int:
        """How many different ones the solver was asked."""
        return len(self._answers)

    def prove(self, claim: Claim) -> list[ToolProof]:
        """What is known of the claim, for each tool."""
        return [self._prove_for(tool, claim) for tool in self.tools]

    def _prove_for(self, tool: str, claim: Claim) -> ToolProof:
        decisions = self._decisions(tool)
        try:
            answer = self._ask(decisions, claim.exception(self._terms, decisions))
        except Unencodable as error:  # outside of an expression, such as the name of a group
            return ToolProof(tool, ProofVerdict.NOT_PROVED, why=(str(error),))
        if answer.holds is False:
            return ToolProof(tool, ProofVerdict.PROVED)
        inexact = [f"`{text}`: {why}" for text, why in decisions.expressions.inexact.items()]
        if answer.model is None:
            return ToolProof(tool, ProofVerdict.NOT_PROVED, why=(answer.why, *inexact))
        request = ConcreteRequest(decisions.request, answer.model)
        material = request.material()
        trial = RequestTrial(self._schema.json, material)
        was = trial.decide(claim.other) if claim.other is not None else None
        found = Counterexample(material, tuple(request.read_paths()), trial.decide(claim.policies), was)
        if claim.is_exception(trial):
            return ToolProof(tool, ProofVerdict.DISPROVED, found)
        is_seen = claim.is_exception(RequestTrial(self._schema.json, material, sees_all=True))
        if is_seen or any(answer.model.value(unknown) for unknown in decisions.blindness):
            inexact.append("only calls with an argument that policies cannot see may be an exception")
        return ToolProof(tool, ProofVerdict.NOT_PROVED if inexact else ProofVerdict.DEFECT, found, tuple(inexact))

    def can_apply(self, policy: Policy) -> bool:
        """Whether the policy may apply to some request."""
        return any(self._applies(tool, policy).holds is not False for tool in self._named_tools(policy))

    def find_dead(self, policies: Policies) -> tuple[list[str], dict[str, str]]:
        """The policies that apply to no request, and those of which that is not known, with the reason."""
        dead, unknown = [], dict[str, str]()
        for id, policy in policies.items():
            answers = [self._applies(tool, policy) for tool in self._named_tools(policy)]
            if all(answer.holds is False for answer in answers):
                dead.append(id)
            elif not any(answer.holds for answer in answers):
                unknown[id] = next(answer.why for answer in answers if answer.holds is None)
        return dead, unknown

    def _named_tools(self, policy: Policy) -> Iterator[str]:
        rules = Ruleset({policy.id: policy}, self._groups)
        return (tool for tool in self.tools if rules.policies_for(tool))

    def _applies(self, tool: str, policy: Policy) -> SolverAnswer:
        decisions = self._decisions(tool)
        try:
            return self._ask(decisions, self._terms.any(*decisions.conditions(policy)))
        except Unencodable as error:
            return SolverAnswer(None, why=str(error))

    def find_equal(self, policies: Policies) -> list[list[str]]:
        """The policies that apply to the same requests with the same effect and routes, in groups of at least two."""
        alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for id, policy in policies.items():
            alike.setdefault((policy.body["effect"], tuple(sorted(set(policy.routes)))), []).append(id)
        classes, equal = list(alike.values()), []
        while classes:
            members = classes.pop()
            parts = self._tell_apart([policies[id] for id in members])
            if len(parts) > 1:
                classes += parts
            elif len(members) > 1:
                equal.append(sorted(members))
        return sorted(equal)

    def _tell_apart(self, policies: list[Policy]) -> list[list[str]]:
        """Parts of these policies that differ in some request; one part if none do. What is not known differs."""
        for tool in self.tools if len(policies) > 1 else ():
            decisions = self._decisions(tool)
            try:
                conditions = {policy.id: decisions.conditions(policy) for policy in policies}
            except Unencodable:
                return [[policy.id] for policy in policies]
            (_, at_first), *others = conditions.items()
            for id, at in others:
                differs = self._terms.any(
                    self._terms.negate(self._terms.equal(at_first.holds, at.holds)),
                    self._terms.negate(self._terms.equal(at_first.fails, at.fails)),
                )
                answer = self._ask(decisions, differs)
                if answer.holds is None:
                    return [[id], [other for other in conditions if other != id]]
                if answer.model is not None:
                    parts: dict[tuple[bool, bool], list[str]] = {}
                    for other, condition in conditions.items():
                        values = answer.model.value(condition.holds), answer.model.value(condition.fails)
                        parts.setdefault(values, []).append(other)
                    return list(parts.values())
        return [[policy.id for policy in policies]]

    def _decisions(self, tool: str) -> Decisions:
        request = UnknownRequest(self._terms, self._schema.json, tool, self._schema.shapes.get(tool))
        return Decisions(request, self._groups, self._known)

    def _ask(self, decisions: Decisions, wanted: Term) -> SolverAnswer:
        """Whether some request fulfils this. Tools that policies do not tell apart have the same question."""
        question = self._terms.all(wanted, *decisions.request.rules)
        if wanted == self._terms.false:
            return SolverAnswer(False)
        if question not in self._answers:
            wishes = [*dict.fromkeys(decisions.wishes), *preferences(decisions.request)]
            self._answers[question] = can_hold(self._terms, question, wishes, self._milliseconds)
        return self._answers[question]
