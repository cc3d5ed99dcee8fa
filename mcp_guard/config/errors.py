"""What is wrong with a value of the configuration, in the words of TOML and of its user."""

import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

WORDS = (
    ("Value error, ", ""),
    ("Input should be", "it should be"),
    ("a valid tuple", "a list: […]"),
    ("a valid dictionary", "a table"),
)


def describe_problem(problem: "ErrorDetails", whole: type[BaseModel]) -> str:
    """INVARIANT: no value is repeated but one that had to be among few words; another may be a secret."""
    match problem["type"]:
        case "missing":
            return "this key is required"
        case "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), sorted(_known(whole, problem["loc"][:-1])), 1)
            return f"unknown key; did you mean `{near[0]}`?" if near else "unknown key"
    message = problem["msg"]
    for pydantics, ours in WORDS:
        message = message.replace(pydantics, ours)
    is_word = problem["type"] in ("enum", "literal_error") and isinstance(problem["input"], str)
    return f"{message}, not `{problem['input']}`" if is_word else message


def _known(whole: type[BaseModel], path: Sequence[int | str]) -> set[str]:
    """The keys that there are in this place."""
    base_dir = {whole}
    for part in path:
        fields = [
            field for model in base_dir for name, field in model.model_fields.items() if part in (name, field.alias)
        ]
        base_dir = {
            model for field in fields for model in _models(field.annotation)
        } or base_dir  # else it is a name of a table
    return {field.alias or name for model in base_dir for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
