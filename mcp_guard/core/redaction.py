"""Redaction: values that the configuration names are removed from everything that is stored of a call. Pure.

JSON pointers (RFC 6901; `*` is each element) name the values. Each is removed where a pointer finds it: in the
arguments, in the facts that they are compared with, in the Cedar request, in a result. The same value is then removed
from all other stored text of the call, because tools repeat their input.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import orjson

from mcp_guard.core import canonical, exact_json
from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.model import Call, Execution, ExecutionStatus, Facts, FactsRule, Json, Redaction

MARK = "[redacted]"
MIN_TEXT_LENGTH = 4
"""Shorter values are not searched for in other text, because they occur by chance too often."""
TEXTS = ("ticket", "reason", "reasons", "errors", "detail", "would", "shadow")
"""Members of a receipt that hold text from an agent, a policy or an upstream."""
FROM_UPSTREAM = (ExecutionStatus.OK, ExecutionStatus.TOOL_ERROR, ExecutionStatus.UPSTREAM_ERROR)


def make_redaction(arguments: tuple[str, ...], result: tuple[str, ...], rule: FactsRule | None) -> Redaction:
    """The redaction of one tool, with the pointers to the same values among the facts."""
    names = rule.fields if rule else {}
    facts = []
    for pointer in arguments if rule else ():
        first, *rest = split_pointer(pointer)
        facts.append(join_pointer([names.get(first, first), *rest]))
    return Redaction(arguments, tuple(facts), result)


def for_look_up(outer: Redaction, rule: FactsRule, own: Redaction) -> Redaction:
    """The redaction of the look-up that reads the facts: of what the call redacts, and of what the read tool does."""
    given = [
        name
        for name, pointer in rule.arguments.items()
        if any(pointers_overlap(pointer, outer_pointer) for outer_pointer in outer.arguments)
    ]
    arguments = (*own.arguments, *(join_pointer([name]) for name in given))
    return Redaction(arguments, own.facts, (*own.result, *(rule.result + pointer for pointer in outer.facts)))


def redact_receipt(call: Call, fields: Json, payloads: dict[str, bytes]) -> tuple[Json, dict[str, bytes]]:
    """Fields and payloads of a receipt of this call as they may be kept; `redacted` lists what was removed."""
    if not call.redaction:
        return fields, payloads
    texts, redacted, kept = texts_of(call), [], {}
    arguments = [f"/arguments{pointer}" for pointer in call.redaction.arguments]
    places = {"request": arguments, "facts": call.redaction.facts, "material": _in_material(call)}
    for name, data in payloads.items():
        before = exact_json.loads(data)
        after, removed = redact_pointers(before, places[name])
        after = redact_texts(after, texts)
        redacted += [f"/{name}{pointer}" for pointer in removed] or ([f"/{name}"] if after != before else [])
        kept[name] = canonical.canonicalize(after, canonical.UNLIMITED, exact=True) if after != before else data
    return redact_fields(fields, texts) | {"redacted": redacted}, kept


def redact_fields(fields: Json, texts: tuple[str, ...]) -> Json:
    return fields | {name: redact_texts(fields[name], texts) for name in TEXTS if fields.get(name)}


def redact_execution(call: Call, execution: Execution) -> tuple[Execution, list[str]]:
    """The execution as it may be kept, and pointers to what was removed from the reply."""
    reply, detail = execution.reply, execution.detail
    removed: list[str] = []
    if call.redaction.result and execution.status in FROM_UPSTREAM:
        if isinstance(result := reply.get("result"), dict) and execution.status is not ExecutionStatus.UPSTREAM_ERROR:
            hidden, removed = _hide_result(result, call.redaction.result)
            reply = {"result": hidden}
        elif isinstance(reply.get("error"), dict):
            reply, detail, removed = {"error": reply["error"] | {"message": MARK, "data": MARK}}, MARK, [""]
    texts = texts_of(call)
    after = redact_texts(reply, texts)
    redacted = [f"/response{pointer}" for pointer in removed] or (["/response"] if after != execution.reply else [])
    return execution._replace(reply=after, detail=redact_texts(detail, texts)), redacted


def redact_facts(call: Call, facts: Facts) -> tuple[Json, list[str]]:
    """Facts that were read after the call as they may be kept, and pointers to what was removed."""
    values, removed = redact_pointers(facts.values, call.redaction.facts)
    after = redact_texts(values, (*texts_of(call), *texts_of(call._replace(facts=facts))))
    return after, [f"/facts{pointer}" for pointer in removed] or (["/facts"] if after != values else [])


def redact_subject(call: Call, subject: ApprovalSubject) -> ApprovalSubject:
    """The subject as it may be kept once its approval is settled."""
    if not call.redaction:
        return subject
    pointers, texts = call.redaction.arguments, texts_of(call)
    values = [f"/{member}{pointer}" for member in ("arguments", "present") for pointer in pointers]
    deltas = [join_pointer(["delta", split_pointer(pointer)[0]]) for pointer in pointers]
    document, redacted = redact_pointers(subject.to_json(), [*values, *deltas])
    document = redact_fields(document, texts)
    payloads = ("claims", "arguments", "meta", "present")
    document |= {name: redact_texts(document[name], texts) for name in payloads if name in document}
    document["risk"] = {name: redact_texts(value, texts) for name, value in document["risk"].items()}
    return ApprovalSubject.from_json(document | {"redacted": [f"/subject{pointer}" for pointer in redacted]})


def texts_of(call: Call) -> tuple[str, ...]:
    """The redacted values, as they may appear in other text."""
    facts = call.facts.values if call.facts else {}
    return (
        *_texts(
            value for pointer in call.redaction.arguments for value in values_at(call.arguments, split_pointer(pointer))
        ),
        *_texts(value for pointer in call.redaction.facts for value in values_at(facts, split_pointer(pointer))),
    )


def texts_of_subject(subject: ApprovalSubject) -> tuple[str, ...]:
    """The same, from the subject of an open request."""
    document = subject.to_json()
    pointers = [pointer.removeprefix("/subject") for pointer in subject.redacted or ()]
    return _texts(value for pointer in pointers for value in values_at(document, split_pointer(pointer)))


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    texts: set[str] = set()
    for value in values:
        if isinstance(value, dict | list):
            texts |= set(_texts(value.values() if isinstance(value, dict) else value))
        elif value is not None and not isinstance(value, bool) and len(str(value)) >= MIN_TEXT_LENGTH:
            escaped = json.dumps(str(value))[1:-1], json.dumps(str(value), ensure_ascii=False)[1:-1]
            texts |= {str(value), *escaped}
    return tuple(sorted(texts, key=lambda text: (-len(text), text)))


def redact_texts(value: Any, texts: tuple[str, ...]) -> Any:
    """The value with these texts replaced everywhere; a number that equals one of them is replaced as a whole."""
    if isinstance(value, str):
        kept: str = value
        for text in texts:
            kept = kept.replace(text, MARK)
        return value if kept == value else kept  # an `ExactNumber` stays one
    if isinstance(value, dict):
        return {redact_texts(key, texts): redact_texts(item, texts) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_texts(item, texts) for item in value]
    return MARK if isinstance(value, int | float) and str(value) in texts else value


def redact_pointers(document: Any, pointers: Iterable[str]) -> tuple[Any, list[str]]:
    """The document with `MARK` at each pointer that finds a value, and those pointers."""
    matched = []
    for pointer in pointers:
        document, hit = _cut(document, split_pointer(pointer))
        matched += [pointer] if hit else []
    return document, matched


def _cut(value: Any, tokens: list[str]) -> tuple[Any, bool]:
    if not tokens or _hides_members(value, tokens[0]):
        return MARK, True
    hits = dict(_members(value, tokens))
    cuts = {key: _cut(item, tokens[1:]) for key, item in hits.items()}
    if not any(hit for _, hit in cuts.values()):
        return value, False
    if isinstance(value, dict):
        return value | {key: item for key, (item, _) in cuts.items()}, True
    return [cuts[place][0] if place in cuts else item for place, item in enumerate(value)], True


def values_at(value: Any, tokens: list[str]) -> Iterable[Any]:
    """The values at a pointer: none, one, or several with `*`."""
    if not tokens or _hides_members(value, tokens[0]):
        yield value
        if tokens and isinstance(value, str):
            with suppress(orjson.JSONDecodeError):
                yield from values_at(orjson.loads(value), tokens)
        return
    for _, item in _members(value, tokens):
        yield from values_at(item, tokens[1:])


def _hides_members(value: Any, name: str) -> bool:
    """Whether such a member may be in it, unseen, because it has another type: an object written as text, for one.

    INVARIANT: a value of another type than a pointer expects is removed as a whole.
    """
    if isinstance(value, list):
        return value != [] and name != "*" and not name.isdecimal()
    return value is not None and not isinstance(value, dict | bool)


def _members(value: Any, tokens: list[str]) -> Iterable[tuple[Any, Any]]:
    """What the first of these leads to. With `*` an object may also be one element where a list was expected."""
    name, *rest = tokens
    if isinstance(value, dict):
        if name != "*":
            return [(name, value[name])] if name in value else []
        return [item for item in value.items() if not rest or item[0] == rest[0] or isinstance(item[1], dict | list)]
    if isinstance(value, list):
        return [(place, item) for place, item in enumerate(value) if name in ("*", str(place))]
    return []


def split_pointer(pointer: str) -> list[str]:
    return [canonical.unescape_token(token) for token in pointer.split("/")[1:]]


def join_pointer(tokens: Iterable[str]) -> str:
    return "".join("/" + canonical.escape_token(token) for token in tokens)


def pointers_overlap(one: str, other: str) -> bool:
    """Whether one of two pointers leads to, or into, what the other points at."""
    pairs = zip(split_pointer(one), split_pointer(other), strict=False)
    return all(left == right or "*" in (left, right) for left, right in pairs)


def _in_material(call: Call) -> list[str]:
    """Pointers to the values in the Cedar request that is kept."""
    places = []
    for pointer in call.redaction.arguments:
        places += [
            f"/request/context/input{pointer}",
            "/request/context/change/delta" + join_pointer(split_pointer(pointer)[:1]),
        ]
    return [*places, *(f"/entities/*/attrs{pointer}" for pointer in call.redaction.facts)]


def _hide_result(result: Json, pointers: tuple[str, ...]) -> tuple[Json, list[str]]:
    """A tool's result. Text that is not JSON cannot be searched by pointers, so none of it is kept."""
    structured, removed = redact_pointers(result.get("structuredContent"), pointers)
    content, all_found = [], set(removed)
    for block in result.get("content", []) if isinstance(result.get("content"), list) else []:
        hidden, also = _hide_block(block, pointers)
        all_found |= set(also)
        content.append(hidden)
    kept: Json = {"content": content} | ({"isError": True} if result.get("isError") is True else {})
    if "structuredContent" in result:
        kept["structuredContent"] = structured
    return kept, sorted(all_found)


def _hide_block(block: Any, pointers: tuple[str, ...]) -> tuple[Json, list[str]]:
    try:
        value = orjson.loads(block["text"]) if block["type"] == "text" else None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        value = None
    if not isinstance(value, dict | list):
        return {"type": "text", "text": MARK}, [""]
    hidden, removed = redact_pointers(value, pointers)
    return {"type": "text", "text": orjson.dumps(hidden).decode()}, removed
