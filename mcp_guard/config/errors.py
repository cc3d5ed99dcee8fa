"""Describes a rejected value of the configuration in terms of TOML and its keys."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from mcp_guard.core.names import SEPARATOR

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MESSAGES = {
    "missing": "this key is required",
    "string_type": 'must be text: "…"',
    "path_type": 'must be a path: "…"',
    "tuple_type": "must be a list: […]",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_too_short": "must have {min_length} or more characters",
    "too_short": "must have {min_length} or more elements",
    "string_pattern_mismatch": "must match the pattern `{pattern}`",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "union_tag_not_found": "the key `{discriminator}` is required",
    "union_tag_invalid": "`{discriminator}` must be one of {expected_tags}, not `{tag}`",
}
"""By pydantic's type of error, with the members of its context."""


PATTERNS = {
    r"^https?://[^/]+": "must be an address that begins with https:// or http://",
    r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$": "must be the name of an HTTP header",
    r"^[A-Z][A-Za-z0-9_]*$": "must begin with a capital letter, and have letters, digits and `_` only",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "must have letters, digits and `_` only, and not begin with a digit",
    r"^[a-z][a-z0-9_]*$": "must begin with a small letter, and have small letters, digits and `_` only",
    r"^(/[^/]*)+$": "must be a JSON pointer, such as `/amount`",
    r"^(/[^/]*)*$": "must be a JSON pointer, such as `/amount`",
    r"^0?[0-7]{3}$": 'must be a file mode, such as "0660"',
    r"^[\w.]+:\w+$": "must be `module:function`",
    r"^[^/]+/.+$": "must be SERVICE/NAME",
}
"""What a text must be, by the pattern that it must match."""
REFERENCE = 'must be a reference to the secret: { env = "NAME" }, { file = "PATH" }, { keyring = … }, { command = … }'
_ALTERNATIVE = re.compile(r"[a-z-]+\[.*\]|function-.*|constrained-str|str|int|float|bool", re.DOTALL)
"""What pydantic adds to the place of a problem: which of several types was tried."""
Key = tuple[int | str, ...]


def describe_problems(problems: Sequence["ErrorDetails"], model: type[BaseModel]) -> Iterator[tuple[Key, str]]:
    """What is wrong with each key; `model` is the model of the whole file.

    Where a value may be of several types, pydantic has a problem for each of them: the one with a key inside of the
    value says what was meant, otherwise all are named.
    """
    by_key: dict[Key, list[str]] = {}
    alternatives = set()
    for problem in problems:
        key, is_alternative = _key_of(problem)
        by_key.setdefault(key, []).append(describe_problem(problem, model))
        if is_alternative:
            alternatives.add(key)
    for key, descriptions in by_key.items():
        if key not in alternatives or not any(other[: len(key)] == key != other for other in by_key):
            first, *others = dict.fromkeys(descriptions)
            yield key, ", or ".join((first, *(other.removeprefix("must be ") for other in others)))


def _key_of(problem: "ErrorDetails") -> tuple[Key, bool]:
    """The key that the problem is about, and whether it is about one of several types that the value may have."""
    parts = problem["loc"]
    if parts[0:1] == ("ledger",) and len(parts) > 2:  # which form of a signer was tried
        parts = (*parts[:2], *parts[3:])
    plain = tuple(
        part for at, part in enumerate(parts) if at < 2 or not (isinstance(part, str) and _ALTERNATIVE.fullmatch(part))
    )
    return tuple(part for part in plain if part != "[key]"), plain != parts


def describe_problem(problem: "ErrorDetails", model: type[BaseModel]) -> str:
    """What is wrong with a value; `model` is the model of the whole file.

    INVARIANT: a rejected value is repeated only if it should have been one of a few words; others may be secrets.
    """
    code, context = problem["type"], problem.get("ctx", {})
    if "discriminator" in context:
        context = {**context, "discriminator": context["discriminator"].strip("'")}
    if code == "value_error":
        return str(context["error"])
    if code == "extra_forbidden":
        import difflib

        known_keys = sorted(_known_keys(model, problem["loc"][:-1]))
        near = difflib.get_close_matches(str(problem["loc"][-1]), known_keys, 1)
        return f"unknown key; did you mean `{near[0]}`?" if near else "unknown key"
    if code == "string_pattern_mismatch" and context["pattern"] in PATTERNS:
        of_name = "this name " if problem["loc"][-1:] == ("[key]",) else ""
        return of_name + PATTERNS[context["pattern"]]
    if code in ("model_type", "model_attributes_type") and context.get("class_name") == "SecretConfig":
        return REFERENCE
    if code in ("enum", "literal_error"):
        value = problem["input"]
        return f"must be {context['expected']}" + (f", not `{value}`" if isinstance(value, str) else "")
    return MESSAGES[code].format_map(context) if code in MESSAGES else problem["msg"]


def nearest_or(name: str, known: Iterable[str], otherwise: str) -> str:
    """A question for the name of which this one may be a misspelling, or the other advice if none is near."""
    import difflib

    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"did you mean `{near[0]}`?" if near else otherwise


def no_upstream_of(tool: str, upstreams: Iterable[str]) -> str:
    """Why a name in the configuration names no tool of any upstream."""
    upstream, separator, _ = tool.partition(SEPARATOR)
    if not separator:
        servers = sorted(upstreams)
        meant = next((server for server in servers if tool.startswith(server)), servers[0] if servers else "server")
        return f"`{tool}` is not the name of a tool: write `SERVER__TOOL`, such as `{meant}{SEPARATOR}{tool}`"
    advice = nearest_or(upstream, upstreams, f"add [upstreams.{upstream}]")
    return f"upstream `{upstream}` is not configured; {advice}"


def _known_keys(model: type[BaseModel], path: Sequence[int | str]) -> set[str]:
    """The keys that the configuration may have at this path."""
    models = {model}
    for part in path:
        fields = [
            field for model in models for name, field in model.model_fields.items() if part in (name, field.alias)
        ]
        models = {inner for field in fields for inner in _models_in(field.annotation)} or models  # else a table's name
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that occur in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
