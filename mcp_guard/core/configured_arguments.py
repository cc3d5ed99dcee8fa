"""Arguments in the configuration that their tool does not declare: a rule for such an argument has no effect. Pure.

An argument counts as wrong only where the tool's input schema declares others. What a schema leaves open (an object
without declared members, a reference that is not local, `patternProperties`) may have any member.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from mcp_guard.core.canonical import read_pointer
from mcp_guard.core.model import FactsRule, Json, RateCounter, SequenceRule, Tool
from mcp_guard.core.names import listed_name
from mcp_guard.core.nearest import MAX_LISTED, folded, nearest
from mcp_guard.core.redaction import join_pointer, split_pointer

REDACT, REDACT_RESULT = "redact", "redact_result"
ANY = "*"
SCALARS = frozenset({"string", "integer", "number", "boolean", "null"})
CONDITIONAL = ("if", "then", "else")
NO_ATTRIBUTES: Mapping[str, Collection[str]] = {}


@dataclass(frozen=True, slots=True)
class ConfiguredArgument:
    """An argument of a tool, as the configuration has it at `key`: a JSON pointer, or the name of one."""

    tool: str
    key: tuple[str, ...]
    written: str
    is_name: bool = False

    @property
    def tokens(self) -> list[str]:
        return [self.written] if self.is_name else split_pointer(self.written)

    @property
    def is_redacted(self) -> bool:
        return self.key[2:] in ((REDACT,), (REDACT_RESULT,))

    @property
    def is_of_result(self) -> bool:
        return self.key[2:] == (REDACT_RESULT,)

    @property
    def title(self) -> str:
        """Where it is in the file."""
        section, name, *rest = self.key
        return f'[tools."{name}"] {".".join(rest)}' if section == "tools" else ".".join(self.key)


@dataclass(frozen=True, slots=True)
class UnmatchedArgument:
    """A configured argument that its tool does not declare. `nearest` is the declared one that it may mean, or empty;
    `declared` are the members where it should be."""

    configured: ConfiguredArgument
    nearest: str
    declared: tuple[str, ...]

    @property
    def fix(self) -> str:
        if self.nearest:
            return f"did you mean `{self.nearest}`?"
        names = ", ".join(f"`{name}`" for name in self.declared[:MAX_LISTED])
        more = f" and {len(self.declared) - MAX_LISTED} more" if len(self.declared) > MAX_LISTED else ""
        return f"declared there: {names or 'nothing'}{more}"

    def __str__(self) -> str:
        entry = self.configured
        effect = ", so its value would be stored in clear" if entry.is_redacted else ""
        what = "no result" if entry.is_of_result else "no argument"
        return f"{entry.title}: `{entry.tool}` declares {what} `{entry.written}`{effect}; {self.fix}"


def configured_arguments(
    tools: Iterable[Tool], counters: Iterable[RateCounter | SequenceRule]
) -> Iterator[ConfiguredArgument]:
    """Every argument that the configuration of these tools, counters and sequences names."""
    for tool in tools:
        name, rule, key = tool.listed_as, tool.rule, ("tools", tool.listed_as)
        for pointer in rule.redaction.arguments:
            yield ConfiguredArgument(name, (*key, REDACT), pointer)
        for pointer in rule.redaction.result:
            yield ConfiguredArgument(name, (*key, REDACT_RESULT), pointer)
        lists = {"sensitive": rule.sensitive, "sinks": rule.sinks, "notify_fields": rule.notify_fields}
        for list_key, arguments in lists.items():
            for argument in arguments:
                yield ConfiguredArgument(name, (*key, list_key), argument, is_name=True)
        if rule.resource is not None:
            yield ConfiguredArgument(name, (*key, "resource", "id"), rule.resource.id)
        if rule.facts is not None:
            yield from _of_facts(tool, rule.facts)
    for counter in counters:
        for name, pointer in product(counter.tools, counter.pointers):
            yield ConfiguredArgument(name, counter.key_of(pointer), pointer)


def _of_facts(tool: Tool, rule: FactsRule) -> Iterator[ConfiguredArgument]:
    name, reader, key = tool.listed_as, listed_name(tool.server, rule.tool), ("tools", tool.listed_as, "facts")
    for argument, pointer in rule.arguments.items():
        yield ConfiguredArgument(name, (*key, "arguments", argument), pointer)
        yield ConfiguredArgument(reader, (*key, "arguments"), argument, is_name=True)
    for argument in rule.fields:
        yield ConfiguredArgument(name, (*key, "fields"), argument, is_name=True)


def find_unmatched_arguments(
    tools: Iterable[Tool],
    counters: Iterable[RateCounter | SequenceRule],
    attributes: Mapping[str, Collection[str]] = NO_ATTRIBUTES,
) -> list[UnmatchedArgument]:
    """The configured arguments that these tools do not declare. `attributes` are those of each type of resource."""
    by_name = {tool.listed_as: tool for tool in tools}
    return [
        found
        for entry in configured_arguments(by_name.values(), counters)
        if entry.tool in by_name
        and (found := _find_unmatched(entry, _schema(entry, by_name[entry.tool])))
        and not _may_redact_facts(found, by_name[entry.tool], attributes)
    ]


def _schema(entry: ConfiguredArgument, tool: Tool) -> Any:
    """What declares it. A tool without an output schema declares nothing of its results, so that any may be meant."""
    if entry.is_of_result:
        return tool.definition.get("outputSchema", True)
    return tool.definition.get("inputSchema")


def _may_redact_facts(found: UnmatchedArgument, tool: Tool, attributes: Mapping[str, Collection[str]]) -> bool:
    """`redact` covers the present state, too, which may have members that are no arguments."""
    if not found.configured.is_redacted or found.configured.is_of_result or tool.rule.facts is None:
        return False
    type = tool.rule.resource.type if tool.rule.resource else ""
    return not found.nearest or found.configured.tokens[0] in attributes.get(type, ())


def _find_unmatched(entry: ConfiguredArgument, schema: Any) -> UnmatchedArgument | None:
    """Follows the pointer through the schema, to where it leaves what is declared."""
    parts, tokens = _parts([schema], schema), entry.tokens
    for at, token in enumerate(tokens):
        if parts is None:
            return None
        inner, declared = _members(parts, token, entry.is_redacted)
        if not inner:
            if declared is None:
                return None
            near = next(iter(sorted(n for n in declared if folded(n) == folded(token))), nearest(token, declared))
            meant = [*tokens[:at], near, *tokens[at + 1 :]] if near else []
            found = near if entry.is_name else join_pointer(meant)
            return UnmatchedArgument(entry, found, tuple(sorted(declared)))
        parts = _parts(inner, schema)
    return None


def _members(parts: list[Json], token: str, is_redacted: bool) -> tuple[list[Any], Collection[str] | None]:
    """The schemas of what a token leads to, and the names of the declared members; None if there may be any other.

    Only `redact` knows `*`, and it removes a value of another type than it expects as a whole.
    """
    tables = [part["properties"] for part in parts if "properties" in part]
    if not all(isinstance(table, dict) for table in tables):
        return [], None
    declared = {name for table in tables for name in table}
    inner = [table[token] for table in tables if token in table]
    if is_redacted and token == ANY:
        inner += [schema for table in tables for schema in table.values()]
    if token.isdecimal() or (is_redacted and token == ANY):
        inner += [schema for part in parts for schema in _elements(part)]
    if any("patternProperties" in part for part in parts):
        return inner, None
    if declared:
        return inner, declared
    is_closed = any(part.get("additionalProperties") is False for part in parts)
    is_array = any("array" in _types(part) for part in parts)
    is_other = any(types and SCALARS.issuperset(types) for types in map(_types, parts)) or is_array
    return inner, () if is_closed or (is_other and not is_redacted) else None


def _elements(part: Json) -> Iterator[Any]:
    """The schemas of the elements of an array."""
    for key in ("items", "prefixItems", "additionalItems"):
        schemas = part.get(key, True if key == "items" and "array" in _types(part) else [])
        yield from schemas if isinstance(schemas, list) else [schemas]


def _types(part: Json) -> list[Any]:
    types = part.get("type", [])
    return types if isinstance(types, list) else [types]


def _parts(schemas: Iterable[Any], root: Any) -> list[Json] | None:
    """These schemas, and all others that are applied to the same value; None if any value may be there."""
    pending, parts, known = list(schemas), list[Json](), set[int]()
    while pending:
        schema = pending.pop()
        if schema is False or id(schema) in known:
            continue
        if not isinstance(schema, dict) or not schema or "$dynamicRef" in schema or "$recursiveRef" in schema:
            return None
        known.add(id(schema))
        parts.append(schema)
        if "$ref" in schema:
            pending.append(_follow(schema["$ref"], root))
        for key in ("allOf", "anyOf", "oneOf"):
            alternatives = schema.get(key, [])
            if not isinstance(alternatives, list) or (key != "allOf" and any(map(_is_open, alternatives))):
                return None
            pending += alternatives
        pending += [schema[key] for key in CONDITIONAL if isinstance(schema.get(key), dict) and schema[key]]
        dependent = schema.get("dependentSchemas", {})
        pending += dependent.values() if isinstance(dependent, dict) else [True]
    return parts


def _is_open(alternative: Any) -> bool:
    """Whether it is an alternative of objects that may have any member."""
    return isinstance(alternative, dict) and "object" in _types(alternative) and "properties" not in alternative


def _follow(reference: Any, root: Any) -> Any:
    """The schema at a local reference; True for another one."""
    if not isinstance(reference, str) or reference[:2] not in ("#", "#/"):
        return True
    try:
        return read_pointer(root, reference[1:])
    except KeyError:
        return True
