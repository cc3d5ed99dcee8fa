"""What suggested policies let happen that did not happen before, of all requests: a proof, and examples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_guard.core.model import Json
from mcp_guard.policy.authoring.suggest import Candidate, Group
from mcp_guard.policy.ruleset import entity_text
from mcp_guard.policy.schema import TOOL, CatalogSchema
from mcp_guard.policy.source import Policy, parse_texts

if TYPE_CHECKING:
    from mcp_guard.policy.proofs.prover import ToolProof

MILLISECONDS = 5000
"""How long the solver may think about one question."""


@dataclass(frozen=True, slots=True)
class NewlyPermitted:
    """`nothing_else` is the verdict on the claim that only calls of the suggested agents and tools are newly permitted.

    `missing` says how to install the solver, if it is not.
    """

    nothing_else: str = ""
    examples: tuple["ToolProof", ...] = ()
    missing: str = ""

    def lines(self) -> Iterator[str]:
        if self.missing:
            yield f"what else they would permit is not examined: {self.missing}"
            return
        from mcp_guard.policy.authoring.counterfactual import shown, value_at
        from mcp_guard.policy.proofs.description import written

        if self.nothing_else:
            yield f"of all requests, they newly permit only calls of these tools by these agents: {self.nothing_else}"
        for proof in self.examples:
            if (found := proof.counterexample) is not None:
                values = (f"{written(path)} = {shown(value_at(found.material, path))}" for path in found.given())
                yield f"  newly permitted, for example: {proof.tool} with {', '.join(values)}"

    def to_json(self) -> Json:
        examples = {proof.tool: proof.counterexample.material for proof in self.examples if proof.counterexample}
        return {"nothing_else": self.nothing_else, "examples": examples}


def find_newly_permitted(candidate: Candidate, in_use: Mapping[str, str], schema: Json) -> NewlyPermitted:
    """Compare the candidate with the policies in use (their files)."""
    suggested = candidate.suggestions.suggested
    if not suggested:
        return NewlyPermitted()
    try:
        from mcp_guard.policy.proofs.claims import NeverMorePermissive
        from mcp_guard.policy.proofs.prover import Prover, overall
    except ImportError as error:
        from mcp_guard.extras import lacks

        return NewlyPermitted(missing=lacks("the solver", "proofs", error).hint)
    new, old = (parse_texts(texts, None)[0].policies for texts in (candidate.texts, in_use))
    prover = Prover(CatalogSchema(schema, {}), MILLISECONDS)
    apart = _calls_of([suggestion.group for suggestion in suggested])
    elsewhere = overall(prover.prove(NeverMorePermissive(new, old, apart)))
    examples = (proof for proof in prover.prove(NeverMorePermissive(new, old)) if proof.counterexample)
    return NewlyPermitted(elsewhere, tuple(examples))


def _calls_of(groups: list[Group]) -> Policy:
    """A permit of the calls of these tools by these agents."""
    ways = []
    for agent, tool, type in groups:
        parts = [f"principal in {entity_text('Agent', agent)}", f"action == {entity_text('Action', tool)}"]
        ways.append(" && ".join(parts if type == TOOL else [*parts, f"resource is {type}"]))
    text = (
        f'@id("suggested") permit (principal, action, resource) when {{ {" || ".join(f"({way})" for way in ways)} }};'
    )
    return parse_texts({"suggested": text}, None)[0].policies["suggested"]
