"""A request with the values that a model gives to the unknowns, in the form in which the ledger keeps requests."""

from collections.abc import Iterator
from typing import Any

from mcp_guard.core.model import Json
from mcp_guard.core.times import LAST_SECOND
from mcp_guard.policy.cedar_text import Path
from mcp_guard.policy.proofs.terms import SolverModel, Term
from mcp_guard.policy.proofs.times import write_literal
from mcp_guard.policy.proofs.unknown_request import DAY, INEXACT, TAG, UNKNOWN, UnknownRequest
from mcp_guard.policy.proofs.values import LEAST, MOST, Scalar, SetValue, type_name
from mcp_guard.policy.schema import INPUT_NULL, PRINCIPAL, TOOL
from mcp_guard.policy.time_of_call import WEEKDAYS

SURROGATES = range(0xD800, 0xE000)
"""Code points of the solver's alphabet that are no Unicode characters."""
DEFAULTS: Json = {"Bool": False, "Long": 0, "String": "", "decimal": 0, "datetime": 1_799_971_200_000, "duration": 0}
"""Values of what no policy reads."""
NAMES = {"principal": "run_1", "agent": "agent", "resource": "1"}
WEEKDAY = WEEKDAYS[0]


def preferences(request: UnknownRequest) -> list[Term]:
    """What makes a counterexample easy to read, the most important first: nothing is hidden, nothing is in it that it
    does not need, and usual names."""
    terms, operators = request.terms, request.operators
    known = (("principal", request.principal), ("agent", request.agent), ("resource", request.resource))
    named = [terms.equal(entity.id, terms.text(NAMES[name])) for name, entity in known if entity.name is None]
    absent = [terms.negate(tag.present) for tag in request.tags.values()]
    for path, present in request.presences.items():
        absent.append(present if request.is_required(path) else terms.negate(present))
    leaves = sorted(request.leaves.items(), key=lambda item: item[0] not in (UNKNOWN, INEXACT, INPUT_NULL))
    values = [leaf.value for _, leaf in leaves]
    empty = [operators.is_empty(value) for value in (*values, request.groups) if isinstance(value, SetValue)]
    low = [
        terms.equal(value.term, terms.number(0))
        for value in values
        if isinstance(value, Scalar) and value.type == "Long"
    ]
    return [*empty, *absent, *named, *low]


class ConcreteRequest:
    """Reads a model. A value that Cedar has no counterpart of is replaced by an unused one, always the same."""

    def __init__(self, request: UnknownRequest, model: SolverModel) -> None:
        self._request, self._model = request, model
        self._numbers: dict[int, int] = {}

    def material(self) -> Json:
        """The request and its entities."""
        request = self._request
        principal, resource = (
            self._uid(PRINCIPAL, request.principal.id),
            self._uid(request.resource.type, request.resource.id),
        )
        agent = self._uid("Agent", request.agent.id)
        groups = [{"type": "Group", "id": id} for id in self._elements(request.groups)]
        attributes = self._record(("principal",), request.attributes_of("principal"))
        entities = [
            {"uid": principal, "attrs": attributes, "parents": [agent]},
            {"uid": agent, "attrs": {"owner": attributes["owner"]}, "parents": groups},
            *({"uid": group, "attrs": {}, "parents": []} for group in groups),
        ]
        if request.resource.type != TOOL:
            entity: Json = {
                "uid": resource,
                "attrs": self._record(("resource",), request.attributes_of("resource")),
                "parents": [],
            }
            if request.has_tags():
                entity["tags"] = dict(self._tags())
            entities.append(entity)
        asked = {
            "principal": principal,
            "action": {"type": "Action", "id": request.action},
            "resource": resource,
            "context": self._record(("context",), request.context_type),
        }
        return {"request": asked, "entities": entities}

    def read_paths(self) -> list[Path]:
        """The parts of the request that policies read, except for tags."""
        return sorted(path for path in self._request.leaves if path[0] != TAG)

    def _uid(self, type: str, id: Term) -> Json:
        return {"type": type, "id": self._text(self._model.value(id))}

    def _record(self, path: Path, type: Json) -> Json:
        return {
            name: self._value((*path, name), inner)
            for name, inner in type.get("attributes", {}).items()
            if self._is_present((*path, name), inner)
        }

    def _is_present(self, path: Path, type: Json) -> bool:
        present = self._request.presences.get(path)
        return bool(type.get("required", True) if present is None else self._model.value(present))

    def _value(self, path: Path, type: Json) -> Any:
        if type["type"] == "Record":
            return self._record(path, type)
        leaf = self._request.leaves.get(path)
        if type["type"] == "Set":
            return self._elements(leaf.value) if leaf and isinstance(leaf.value, SetValue) else []
        scalar = type_name(type)
        if leaf and isinstance(leaf.value, Scalar):
            return self._typed(scalar, self._model.value(leaf.value.term))
        if path[-1] == "weekday":
            return WEEKDAY
        return self._typed(scalar, "low" if path[-2:] == ("risk", "level") else DEFAULTS[scalar])

    def _elements(self, value: SetValue) -> list[Any]:
        return sorted((self._typed(value.element, each) for each in self._model.value(value.term)), key=repr)

    def _tags(self) -> Iterator[tuple[str, Any]]:
        for key, tag in self._request.tags.items():
            if self._model.value(tag.present):
                yield key, self._value((TAG, key), self._request.tag_type)

    def _typed(self, type: str, value: Any) -> Any:
        match type:
            case "String":
                return self._text(value)
            case "Long":
                return self._number(value, LEAST, MOST)
            case "decimal" | "datetime":
                least, most = (LEAST + 1, MOST) if type == "decimal" else (-DAY, LAST_SECOND * 1000)
                return {"__extn": {"fn": type, "arg": write_literal(type, self._number(value, least, most))}}
        return value

    def _number(self, value: int, least: int, most: int) -> int:
        """Elements of sets have no limits in the solver."""
        if least <= value <= most:
            return value
        return self._numbers.setdefault(value, 7_000_000_000_000 + len(self._numbers))

    def _text(self, value: str) -> str:
        """Surrogates are replaced by characters of a private use area, which nothing else has."""
        return "".join(chr(0x100000 + ord(each) - SURROGATES[0]) if ord(each) in SURROGATES else each for each in value)
