"""Generalizes recorded requests to conditions that fit them closely: ranges of numbers, sets of strings, folders.

A string is bounded by its values only if these repeat, as names do, or if the tool's schema lists them; by a folder if
all of them are in it. Any other string is free text, for which a condition on the values seen would say nothing of the
next call: it raises `FreeText`, and a person decides. An attribute of a type that no condition can bound raises
`Unbounded`.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import PurePath
from typing import Any

from mcp_guard.core.model import Json
from mcp_guard.core.names import last_word
from mcp_guard.policy.authoring.counterfactual import value_at
from mcp_guard.policy.cedar_text import is_plain, paths, quoted
from mcp_guard.policy.source import Policy

MAX_VALUES = 20
"""With more distinct values than this, an attribute is not bounded by a set."""

LESS_IS_SAFER = ("context.rate.", "context.risk.score", "principal.depth")
"""Attributes bounded from above only: a lower value is never riskier."""


class Unbounded(Exception):
    """Nothing is suggested; the message is the reason, for example the attribute that no condition bounds."""


class FreeText(Unbounded):
    """The values at `path` are no bound for the values to come. `distinct` is how many there were.

    `may_be` is what a person has to answer, and `because` why the values do not. The answer holds for the `also`, too.
    """

    def __init__(
        self, path: str, distinct: int, may_be: str = "any text", because: str = "", also: Sequence[str] = ()
    ) -> None:
        self.path = path
        self.distinct = distinct
        self.may_be = may_be
        self.because = because
        self.also = also
        self.had = f"{distinct} different value{'' if distinct == 1 else 's'}"
        super().__init__(f"`{path}` had {self.had}, which do not repeat")

    def question(self, name: str) -> str:
        *names, last = (f"`{item}`" for item in (name, *self.also))
        asked = f"{', '.join(names)} and {last}" if names else last
        return f"may {asked} be {self.may_be}? it had {self.had}{self.because}"


PROSE = frozenset(
    ("body", "code", "command", "comment", "content", "description", "message", "note", "prompt", "query", "reason",
     "script", "sql", "subject", "summary", "text", "title")
)  # fmt: skip
"""Arguments whose name ends with one of these words are free text, whatever their values were."""
MIN_REPEATED = 2
"""How often each value of a name has occurred on average."""
LONGEST_NAME = 200
NAME = re.compile(r"\S*")
FOLDER = re.compile(r"(?:(?!file:)[a-z][a-z0-9+.-]*://[^/*]+|/[^/*]+/[^/*]+)/(?:[^/*]+/)*")
"""A folder that is not one of the root's, or a URL up to a slash after its host."""
HOST = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#\s]+)")
MAX_HOSTS = 3
"""How many hosts a question names."""
ENDING = re.compile(r".+(\.(?!(?i:git)$)[A-Za-z][A-Za-z0-9]*)")
"""The last part of a path whose ending says what it is; `x.git` is a folder that git obeys."""
WITHOUT_ENDING = (
    " without an ending such as `.txt`, and programs obey some files and folders without one (`HEAD` and `config` of"
    " git, `Makefile`)"
)


@dataclass(frozen=True, slots=True)
class PolicyCondition:
    """`text` is `true` if nothing is restricted and only the comment counts."""

    text: str
    comment: str = ""
    opens_paths: bool = False
    """Whether paths that were not seen meet it."""
    folders: tuple[str, ...] = ()
    """The folders that such paths are in, if they are bounded."""


def record_conditions(
    base: str,
    values: Sequence[Mapping[str, Any]],
    kind: Json,
    free: Collection[str] = (),
    listed: Collection[str] = (),
) -> Iterator[PolicyCondition]:
    """Conditions that all of these records meet, for each attribute of their schema type `kind`.

    Attributes in `free` are not bounded; strings in `listed` have few values by the tool's schema. Raises: Unbounded,
    FreeText.
    """
    for name, inner in sorted(kind.get("attributes", {}).items()):
        given = [value[name] for value in values if name in value]
        at = f"{base}.{name}" if is_plain(name) else f"{base}[{quoted(name)}]"
        has = f"{base} has {name if is_plain(name) else quoted(name)}"
        if name in free:
            is_path = any(isinstance(value, str) and FOLDER.match(value) for value in given)
            yield PolicyCondition("true", f"{name}: not restricted", is_path)
        elif not given:
            if not inner.get("required", True):
                yield PolicyCondition(f"!({has})")
        else:
            yield from _attribute(at, has, given, inner, len(values), name in listed)


def _attribute(at: str, has: str, given: list[Any], kind: Json, of: int, is_listed: bool) -> Iterator[PolicyCondition]:
    optional = not kind.get("required", True)
    if kind.get("type") == "Record":
        inner = [condition for condition in record_conditions(at, given, kind) if condition.text != "true"]
    else:
        condition = bound(at, given, is_listed)
        inner = [condition] if condition else []
    for condition in inner:
        text = condition.text
        if optional and len(given) == of:
            text = f"{has} && {text}"
        elif optional:
            text = f"(if {has} then {text} else true)"
        comment = condition.comment if len(given) == of else f"given in {len(given)} of {of} calls"
        yield replace(condition, text=text, comment=comment)


def bounded_parts(inputs: Sequence[Json], resources: Sequence[Json], kind: Json, free: Collection[str]) -> Json:
    """The schema type of the parts that conditions are needed on of the URIs in these inputs. What bounds a URI bounds
    its parts, so those that cannot be bounded are left out then.

    Raises: FreeText about the URI and all of its parts that cannot be bounded, so that it is one question.
    """
    unbounded = dict[str, FreeText]()
    at = {"uri": "context.input.uri", **{name: f"resource.{name}" for name in sorted(kind["attributes"])}}
    for name in at.keys() - set(free):
        try:
            bound(at[name], [values[name] for values in (inputs if name == "uri" else resources)])
        except FreeText as why:
            unbounded[name] = why
    if unbounded and ("uri" in unbounded or "uri" in free):
        first, *also = filter(unbounded.__contains__, at)
        text = unbounded[first]
        raise FreeText(text.path, text.distinct, text.may_be, text.because, also)
    return {"attributes": {name: inner for name, inner in kind["attributes"].items() if name not in unbounded}}


def bound(at: str, values: list[Any], is_listed: bool = False) -> PolicyCondition | None:
    """A condition that all of these values meet; None if every value of the type does. Raises: Unbounded, FreeText."""
    first = values[0]
    if isinstance(first, bool):
        return None if len(set(values)) == 2 else PolicyCondition(at if first else f"!{at}")
    if isinstance(first, int):
        low, high = min(values), max(values)
        if at.startswith(LESS_IS_SAFER):
            return PolicyCondition(f"{at} <= {high}")
        return PolicyCondition(f"{at} == {low}" if low == high else f"{at} >= {low} && {at} <= {high}")
    if isinstance(first, str):
        return _texts(at, values, is_listed)
    if isinstance(first, list):
        return _sets(at, values, is_listed)
    if isinstance(first, dict) and first.get("__extn", {}).get("fn") == "decimal":
        low, high = (pick(values, key=_decimal)["__extn"]["arg"] for pick in (min, max))
        if at.startswith(LESS_IS_SAFER):
            return PolicyCondition(f'{at}.lessThanOrEqual(decimal("{high}"))')
        return PolicyCondition(f'{at}.greaterThanOrEqual(decimal("{low}")) && {at}.lessThanOrEqual(decimal("{high}"))')
    raise Unbounded(f"`{at}` has a type that no condition can bound")


def _decimal(value: Json) -> Decimal:
    return Decimal(value["__extn"]["arg"])


def _texts(at: str, values: list[str], is_listed: bool) -> PolicyCondition:
    distinct = sorted(set(values))
    if is_listed and len(distinct) > MAX_VALUES:
        raise Unbounded(f"`{at}` had {len(distinct)} different values")
    if not is_listed and is_prose(at):
        raise FreeText(at, len(distinct))
    if is_listed or _are_names(values):
        literals = ", ".join(map(quoted, distinct))
        return PolicyCondition(f"{at} == {literals}" if len(distinct) == 1 else f"[{literals}].contains({at})")
    if folder := common_folder(distinct):
        return _inside(at, folder, distinct)
    if hosts := sorted({match[1] for value in distinct if (match := HOST.match(value))}):
        shown = ", ".join(f"`{host}`" for host in hosts[:MAX_HOSTS]) + (" and others" if len(hosts) > MAX_HOSTS else "")
        raise FreeText(at, len(distinct), "any destination", f", at {shown}, and an address may carry data there")
    raise FreeText(at, len(distinct))


def _inside(at: str, folder: str, seen: list[str]) -> PolicyCondition:
    """The condition that `at` is in the folder and ends as the values do. Raises: FreeText.

    Each ending is let through only in the deepest folder that has all values with that ending.
    Names without an ending, or with a leading dot, are let through only as they were seen: programs obey what is in
    `.git/config` or `.envrc`, and git obeys any folder with the files `HEAD` and `config`, so that whoever may write
    there may run any command. A list of such names would never be complete, so it is the other names that are listed.
    """
    comment = f"{len(seen)} different values"
    if "://" in folder:
        return PolicyCondition(
            f'{at} like {quoted(folder)[:-1]}*" && !({at} like "*..*") && !({at} like "*%*")', comment
        )
    plain = [value for value in seen if "/." not in value[len(folder) - 1 :]]
    names = {value: name for value in plain if (name := ENDING.fullmatch(value.rpartition("/")[2]))}
    folders = {
        ending: _folder_in(folder, [value for value, name in names.items() if name[1] == ending])
        for ending in sorted({name[1] for name in names.values()})
    }
    exact = [value for value in seen if value not in names]
    if not folders or len(exact) > MAX_VALUES or len(folders) > MAX_VALUES:
        raise FreeText(at, len(seen), "any path", "" if folders else WITHOUT_ENDING)
    inside = " || ".join(f'{at} like {quoted(inner)[:-1]}*{ending}"' for ending, inner in folders.items())
    inside = f"({inside})" if len(folders) > 1 else inside
    above = folder[:-1] if "/." in folder else ""
    inside += f' && !({at} like "*..*") && !({at} like {quoted(above)[:-1]}*/.*")'
    text = f"({inside} || [{', '.join(map(quoted, exact))}].contains({at}))" if exact else inside
    return PolicyCondition(text, f"{comment}; * also stands for folders", True, tuple(folders.values()))


def within(at: str, names: Sequence[str]) -> PolicyCondition:
    """The condition that this set has none but these names."""
    listed = ", ".join(map(quoted, names))
    return PolicyCondition(f"[{listed}].containsAll({at})" if names else f"{at}.isEmpty()")


def origin_conditions(materials: Sequence[Json], gates: Iterable[Policy]) -> Iterator[PolicyCondition]:
    """Where values came from, as far as these gates ask: other arguments of such an origin are not let through."""
    read = {path for gate in gates for condition in gate.body["conditions"] for path in paths(condition["body"])}
    for path in sorted(path for path in read if path[:2] == ("context", "history")):
        seen = [value_at(material, path) for material in materials]
        if all(isinstance(names, list) for names in seen):
            yield within(".".join(path), sorted({name for names in seen for name in names}))


def refuse_own(own: Collection[str], inputs: object, conditions: Iterable[PolicyCondition]) -> None:
    """Raises: Unbounded if an argument is one of these paths or in it, or if a condition opens a folder with one."""
    for path in map(PurePath, own):
        for text in _strings(inputs):
            if PurePath(text).is_relative_to(path):
                raise Unbounded(f"a call named `{text}`, a file of this guard")
        for folder in (folder for condition in conditions for folder in condition.folders):
            if path.is_relative_to(folder):
                raise Unbounded(f"the calls were in `{folder}`, which has a file of this guard in it: `{path}`")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def is_prose(at: str) -> bool:
    """Whether this is an argument whose name says that it is text."""
    return at.startswith("context.input") and last_word(at) in PROSE


def _are_names(values: Sequence[str]) -> bool:
    """Whether these are few, repeat, and contain no blanks, as identifiers do and prose does not."""
    counts = Counter(values)
    are_few = len(counts) <= MAX_VALUES and len(values) >= MIN_REPEATED * len(counts)
    return are_few and all(len(value) <= LONGEST_NAME and NAME.fullmatch(value) for value in counts)


def common_folder(values: Sequence[str]) -> str:
    """The deepest folder, with its slash, that all of these paths or URLs are in; empty if there is none.

    None of them may have `..` in it, or in a URL `%`, which would lead out of the folder again.
    """
    low, high = min(values), max(values)
    shared = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    found = FOLDER.match(low[: low.rfind("/", 0, shared) + 1])
    is_plain = not any(".." in value or re.search(r"\s|://.*%", value) for value in values)
    return found[0] if found and is_plain and len(values) > 1 else ""


def _folder_in(folder: str, values: Sequence[str]) -> str:
    """The deepest folder of these paths in `folder`; of one path, its own folder."""
    own = FOLDER.match(values[0][: values[0].rindex("/") + 1])
    return common_folder(values) or (own[0] if own else folder)


def _sets(at: str, values: list[list[Any]], is_listed: bool) -> PolicyCondition:
    items = [item for value in values for item in value]
    if any(isinstance(item, dict | list) for item in items):
        raise Unbounded(f"`{at}` has a type that no condition can bound")
    every = sorted({quoted(item) if isinstance(item, str) else json.dumps(item) for item in items})
    if not every:
        return PolicyCondition(f"{at}.isEmpty()")
    if at.startswith("context.input.") and not is_listed:
        texts = [item for item in items if isinstance(item, str)]
        if texts and (is_prose(at) or not _are_names(texts)):
            raise FreeText(at, len(set(texts)))
    if len(every) > MAX_VALUES:
        raise Unbounded(f"`{at}` had {len(every)} different members")
    return PolicyCondition(f"[{', '.join(every)}].containsAll({at})")
