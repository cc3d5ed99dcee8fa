"""The MCP methods beside `tools/call` that are decided, recorded and sent like one (`[guard] decide`). Pure.

Each method of an upstream is a `Tool` with a `method`: `crm__resources/read` is an action of the policies, in the
groups `resources/read`, `server:crm` and that of its effect. What a request is about is an entity of a type of the
guard, whose attributes follow from the request and from what the upstream lists: they are the call's facts. Parts with
names of their own (the parameters of a URI template, the arguments of a prompt, the fields of an answer) are its tags.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from mcp_guard.core import canonical
from mcp_guard.core.model import Effect, Facts, Json, ResourceRule, Tool, ToolRule
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.tool_pins import definition_hash

AREAS = ("tools", "resources", "prompts", "elicitation")
"""What `[guard] decide` may name. Tool calls are always decided."""
READ, SUBSCRIBE = "resources/read", "resources/subscribe"
GET_PROMPT, COMPLETE = "prompts/get", "completion/complete"
ELICIT, SAMPLE = "elicitation/create", "sampling/createMessage"
ANSWERS = (ELICIT, SAMPLE)
"""Questions of an upstream. What is decided is the client's answer, which carries data to the upstream."""
LIST_TEMPLATES, LIST_PROMPTS = "resources/templates/list", "prompts/list"
PARTS = "parts"
"""The member of the facts that becomes the tags of the entity."""
ANSWER = "Answer"
"""The type of entity whose tags have values of several types: the fields of a form. Those of others are texts."""
MAX_PARTS, MAX_PART_LENGTH = 64, 64 * 1024
"""How many arguments a prompt may be given, or fields an answer may have, and the length of each as a text."""

MAX_COMBINED = 4
"""Optional parts of which every combination is looked at, to tell whether a request could be allowed."""

Listed = Callable[[str, str], Sequence[Json]]
"""What an upstream lists at present, by its name and the method of the list."""


def operation_name(server: str, method: str) -> str:
    """The action of this method of an upstream. No tool has such a name: `/` is written otherwise in those."""
    return f"{server}{SEPARATOR}{method}"


@dataclass(frozen=True, slots=True)
class DecidedMethod:
    """A method, the areas that include it, and the entity that its requests are about: the type, the argument that is
    its id, and its attributes, all of which it has unless they are not certain (`Resource.template`)."""

    name: str
    areas: tuple[str, ...]
    effect: Effect
    type: str
    id: str
    attributes: tuple[str, ...]
    schema: Json

    def operation(self, server: str, rules: Mapping[str, ToolRule]) -> Tool:
        """What stands for this method of an upstream."""
        listed_as = operation_name(server, self.name)
        definition = {"name": self.name, "inputSchema": self.schema}
        rule = replace(rules.get(listed_as, ToolRule()), resource=ResourceRule(self.type, self.id), facts=None)
        effect = rule.effect or self.effect
        hash = definition_hash(definition)
        return Tool(server, self.name, listed_as, definition, hash, rule, effect, self.name)


def _object(required: Collection[str], **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


_TEXT: Json = {"type": "string"}
_URI = ("server", "scheme", "host", "path", "query", "template")
METHODS = {
    method.name: method
    for method in (
        DecidedMethod(READ, ("resources",), Effect.READ, "Resource", "/uri", _URI, _object(["uri"], uri=_TEXT)),
        DecidedMethod(SUBSCRIBE, ("resources",), Effect.READ, "Resource", "/uri", _URI, _object(["uri"], uri=_TEXT)),
        DecidedMethod(
            GET_PROMPT, ("prompts",), Effect.READ, "Prompt", "/name", ("server", "name"), _object(["name"], name=_TEXT)
        ),
        DecidedMethod(
            COMPLETE,
            ("prompts", "resources"),
            Effect.READ,
            "Completion",
            "/argument/name",
            ("server", "kind", "of", "argument", "value"),
            _object(["argument"], argument=_object(["name", "value"], name=_TEXT, value=_TEXT)),
        ),
        DecidedMethod(
            ELICIT,
            ("elicitation",),
            Effect.WRITE,
            ANSWER,
            "/action",
            ("server", "method", "text"),
            _object(["action"], action=_TEXT),
        ),
        DecidedMethod(
            SAMPLE,
            ("elicitation",),
            Effect.WRITE,
            ANSWER,
            "/role",
            ("server", "method", "text"),
            _object(["role"], role=_TEXT),
        ),
    )
}
MEMBERS = {
    READ: {"uri"},
    SUBSCRIBE: {"uri"},
    GET_PROMPT: {"name", "arguments"},
    COMPLETE: {"ref", "argument", "context"},
    ELICIT: {"action", "content"},
    SAMPLE: {"role", "content", "model", "stopReason"},
}
"""What a request or answer may have in it, beside `_meta`."""
ATTRIBUTES = {method.type: method.attributes for method in METHODS.values()}
"""The attributes of each type of entity; all are texts."""


def decided_methods(areas: Collection[str]) -> tuple[DecidedMethod, ...]:
    """The methods beside `tools/call` that are decided in these areas."""
    return tuple(method for method in METHODS.values() if any(area in areas for area in method.areas))


def make_operations(servers: Iterable[str], areas: Collection[str], rules: Mapping[str, ToolRule]) -> tuple[Tool, ...]:
    """What stands for the decided methods of these upstreams, whether they have them or not."""
    methods = decided_methods(areas)
    return tuple(method.operation(server, rules) for server in servers for method in methods)


def read_request(tool: Tool, arguments: Json, listed: Listed) -> Facts | str:
    """The facts of what a request is about, or why it must be denied, in words for the agent."""
    assert tool.method is not None
    if unknown := sorted(arguments.keys() - MEMBERS[tool.method]):  # no policy would see them
        return f"the request has a member `{unknown[0][:100]}`, which MCP does not define for `{tool.method}`"
    match tool.method:
        case "resources/read" | "resources/subscribe":
            values = _read_uri(tool, arguments, listed)
        case "prompts/get":
            values = _read_prompt(tool, arguments, listed)
        case "completion/complete":
            values = _read_completion(tool, arguments)
        case _:
            values = _read_answer(tool, arguments)
    return values if isinstance(values, str) else Facts(values, canonical.digest_json(values))


def _read_uri(tool: Tool, arguments: Json, listed: Listed) -> Json | str:
    uri = arguments.get("uri")
    if not isinstance(uri, str):
        return "`uri` must be a text"
    from mcp_guard.core.resource_uri import read_resource  # with its patterns, loaded with the first URI

    templates = [item.get("uriTemplate") for item in listed(tool.server, LIST_TEMPLATES)]
    resource = read_resource(uri, [template for template in templates if isinstance(template, str)])
    if isinstance(resource, str):
        return f"the URI was refused: {resource}"
    attributes = {name: getattr(resource, name) for name in _URI if name not in ("server", "template")}
    by_template = {} if resource.template is None else {"template": resource.template, PARTS: {**resource.parameters}}
    return {"server": tool.server, **attributes, **by_template}


def _read_prompt(tool: Tool, arguments: Json, listed: Listed) -> Json | str:
    name, given = arguments.get("name"), arguments.get("arguments", {})
    prompt = next((item for item in listed(tool.server, LIST_PROMPTS) if item.get("name") == name), None)
    if not isinstance(name, str) or prompt is None:
        return f"`{tool.server}` lists no prompt of this name"
    parts = _read_parts(given, "argument")
    if isinstance(parts, str):
        return parts
    required, optional = _prompt_arguments(prompt)
    if unknown := sorted(parts.keys() - {*required, *optional}):
        has = ", ".join(f"`{known}`" for known in (*required, *optional)) or "none"
        return f"the prompt has no argument `{unknown[0][:100]}`; it has: {has}"
    if missing := [known for known in required if known not in parts]:
        return f"the prompt requires the argument `{missing[0]}`"
    return {"server": tool.server, "name": name, PARTS: parts}


def _prompt_arguments(prompt: Json) -> tuple[list[str], list[str]]:
    """The arguments that a prompt requires, and the others."""
    declared = prompt.get("arguments")
    arguments = [item for item in declared if isinstance(item, dict)] if isinstance(declared, list) else []
    names = {str(item.get("name")): item.get("required") is True for item in arguments}
    return [name for name, is_required in names.items() if is_required], [
        name for name, is_required in names.items() if not is_required
    ]


def _read_parts(given: object, what: str) -> dict[str, str] | str:
    """Texts by name, or why they are refused."""
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > MAX_PARTS:
        return f"there may be at most {MAX_PARTS} {what}s, by name"
    for name, value in given.items():
        if not isinstance(value, str) or len(value) > MAX_PART_LENGTH:
            return f"the {what} `{name[:100]}` must be a text of at most {MAX_PART_LENGTH} characters"
    return dict(given)


def _read_completion(tool: Tool, arguments: Json) -> Json | str:
    ref, argument, context = (arguments.get(name) for name in ("ref", "argument", "context"))
    if not isinstance(ref, dict) or not isinstance(argument, dict):
        return "`ref` and `argument` must be objects"
    kind, named = ("prompt", "name") if ref.get("type") == "ref/prompt" else ("resource", "uri")
    if ref.keys() - {"type", named} or argument.keys() - {"name", "value"}:
        return f"`ref` may have `type` and `{named}`, and `argument` `name` and `value`"
    of, name, value = ref.get(named), argument.get("name"), argument.get("value")
    if not all(isinstance(text, str) and len(text) <= MAX_PART_LENGTH for text in (of, name, value)):
        return "what is completed, its argument and the value so far must be texts"
    parts = _read_parts(context.get("arguments") if isinstance(context, dict) else context, "argument")
    if isinstance(parts, str):
        return parts
    return {"server": tool.server, "kind": kind, "of": of, "argument": name, "value": value, PARTS: parts}


def _read_answer(tool: Tool, arguments: Json) -> Json | str:
    """An answer to a question: the fields of a form, or what a model has written."""
    content = arguments.get("content")
    parts: Json | str
    if tool.method == ELICIT:
        fields = content if isinstance(content, dict) else {}
        refused = _read_parts({name: as_text(value) for name, value in fields.items()}, "field")
        parts, text = refused if isinstance(refused, str) else fields, ""
    else:
        names = ("role", "model", "stopReason")
        parts = {name: value for name in names if isinstance(value := arguments.get(name), str)}
        blocks = content if isinstance(content, list) else [content]
        text = "\n".join(map(_text_of_block, blocks))
    return (
        parts if isinstance(parts, str) else {"server": tool.server, "method": tool.method, "text": text, PARTS: parts}
    )


def _text_of_block(block: object) -> str:
    """A block of text as it is, and any other as JSON, so that policies see all that is sent."""
    is_text = isinstance(block, dict) and block.keys() <= {"type", "text"} and isinstance(block.get("text"), str)
    return str(block["text"]) if is_text and isinstance(block, dict) else as_text(block)


def as_text(value: object) -> str:
    """A field as policies compare it: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else canonical.canonicalize(value, canonical.UNLIMITED, exact=True).decode()


# What a listed item could be about


def targets_of(tool: Tool, item: Json, listed: Listed) -> list[Json]:
    """The entities that requests for this item of a list could be about, in Cedar's JSON form; none if every request
    for it is refused. What depends on the request is unknown in them."""
    match tool.method:
        case "resources/read" | "resources/subscribe" if "uriTemplate" in item:
            return _targets_of_template(tool, str(item["uriTemplate"]))
        case "resources/read" | "resources/subscribe":
            facts = read_request(tool, {"uri": item.get("uri")}, listed)
            if isinstance(facts, str):
                return []
            return [_entity("Resource", str(item.get("uri")), facts.values, facts.values.get(PARTS))]
        case "prompts/get":
            name = str(item.get("name"))
            known = {"server": tool.server, "name": name}
            return [
                _entity("Prompt", name, known, {part: _unknown(f"part {part}") for part in parts})
                for parts in _choices(*_prompt_arguments(item))
            ]
    return []


def _targets_of_template(tool: Tool, template: str) -> list[Json]:
    from mcp_guard.core.resource_uri import read_scheme
    from mcp_guard.core.template_values import template_reader

    scheme, reader = read_scheme(template), template_reader(template)
    known = {"server": tool.server, "template": template}
    if scheme and "{" not in scheme:
        known["scheme"] = scheme
    values = {name: known.get(name, _unknown(name)) for name in _URI}
    if reader is None:
        return [_entity("Resource", template, values | {"template": ""}, None)]
    return [
        _entity("Resource", template, values, {name: _unknown(f"part {name}") for name in names})
        for names in _choices(reader.required, reader.optional)
    ]


def _choices(required: Iterable[str], optional: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The parts that a request may have: all that are required, and some of the others."""
    if len(optional) > MAX_COMBINED:
        yield from ((*required, *optional), tuple(required))
        return
    for count in range(len(optional), -1, -1):
        for chosen in combinations(optional, count):
            yield (*required, *chosen)


def _unknown(name: str) -> Json:
    """A value that partial evaluation leaves open."""
    return {"__extn": {"fn": "unknown", "arg": name}}


def _entity(type: str, id: str, values: Mapping[str, Any], tags: Mapping[str, Any] | None) -> Json:
    """Without `tags` it is not certain of which template it is, nor with which parameters."""
    attributes = {name: values.get(name, "") for name in ATTRIBUTES[type]}
    entity: Json = {"uid": {"type": type, "id": id}, "attrs": attributes, "parents": []}
    return entity if tags is None else entity | {"tags": dict(tags)}


# Labels of resources


@dataclass(frozen=True, slots=True)
class ResourceLabels:
    """What reading a resource returns whose URI matches the pattern: `*` stands for any text, `?` for a character."""

    pattern: str
    returns: tuple[str, ...]


def with_labels(tool: Tool, arguments: Mapping[str, Any], labels: Iterable[ResourceLabels]) -> Tool:
    """The same with the labels of the resource, beside those of all resources of its upstream."""
    from fnmatch import fnmatchcase

    uri = str(arguments.get("uri", ""))
    returns = [label for rule in labels if fnmatchcase(uri, rule.pattern) for label in rule.returns]
    if not returns:
        return tool
    return replace(tool, rule=replace(tool.rule, returns=tuple(dict.fromkeys((*tool.rule.returns, *returns)))))
