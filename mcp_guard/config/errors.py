"""Describes a rejected value of the configuration in terms of TOML and its keys."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

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
    if code in ("enum", "literal_error"):
        value = problem["input"]
        return f"must be {context['expected']}" + (f", not `{value}`" if isinstance(value, str) else "")
    return MESSAGES[code].format_map(context) if code in MESSAGES else problem["msg"]


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
