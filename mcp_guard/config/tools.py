"""Tools, the types of their resources, counters of their calls, and sequences: `[tools]`, `[resources]`, `[rates]` and
`[sequences]`."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mcp_guard.config.types import ConfigModel
from mcp_guard.core.model import (
    SECOND,
    Effect,
    FactsRule,
    Mode,
    RateCounter,
    ResourceRule,
    SequenceRule,
    StepOutcome,
    ToolRule,
)
from mcp_guard.core.rates import ARGUMENT
from mcp_guard.core.redaction import join_pointer, make_redaction, pointers_overlap

Pointer = Annotated[str, Field(pattern=r"^(/[^/]*)*$")]
NonRootPointer = Annotated[str, Field(pattern=r"^(/[^/]*)+$")]
"""A JSON pointer to a part of the document; `*` stands for each element of a list."""
EntityType = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9_]*$")]
RESERVED_TYPES = ("Agent", "AgentInstance", "Group", "Tool", "Action")
MAX_NOTIFY_FIELDS = 10
"""Slack shows ten fields in a section; a notification is read at a glance."""
CountedBy = (
    Literal["instance", "agent", "user", "tool", "resource"] | Annotated[str, Field(pattern=r"^argument:(/[^/]*)+$")]
)
OLD_VERB = "deed"
"""The name of `verb` in `[tools."…"]` until 2026-11. Still accepted, with a notice."""
AttributeKind = Literal["string", "integer", "number", "boolean", "strings"]


class ResourceConfig(ConfigModel):
    type: EntityType
    id: Pointer


class FactsConfig(ConfigModel):
    tool: str
    arguments: dict[str, Pointer]
    result: Pointer = ""
    fields: dict[str, str] = {}
    confirm: bool = False
    also_changes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def confirms_what_also_changes(self) -> "FactsConfig":
        if self.also_changes and not self.confirm:
            raise ValueError("`also_changes` is for `confirm = true`, which is missing")
        return self


class ToolConfig(ConfigModel):
    effect: Effect | None = None
    resource: ResourceConfig | None = None
    facts: FactsConfig | None = None
    ask: tuple[Literal["ticket", "reason"], ...] = ()
    sensitive: tuple[str, ...] = ()
    verb: str | None = None
    mode: Mode | None = None
    returns: tuple[Literal["untrusted", "sensitive"], ...] = ()
    trusted: tuple[Pointer, ...] = ()
    parties: tuple[Pointer, ...] = ()
    sinks: tuple[str, ...] = ()
    redact: tuple[NonRootPointer, ...] = ()
    redact_result: tuple[NonRootPointer, ...] = ()
    notify_fields: Annotated[tuple[str, ...], Field(max_length=MAX_NOTIFY_FIELDS)] = ()

    @model_validator(mode="before")
    @classmethod
    def accepts_the_old_name_of_verb(cls, data: Any) -> Any:
        if not isinstance(data, dict) or OLD_VERB not in data:
            return data
        if "verb" in data:
            raise ValueError(f"`{OLD_VERB}` is the old name of `verb`: remove `{OLD_VERB}` and keep `verb`")
        return {("verb" if key == OLD_VERB else key): value for key, value in data.items()}

    @model_validator(mode="after")
    def keeps_the_resource_visible(self) -> "ToolConfig":
        for pointer in self.redact:
            if self.resource and pointers_overlap(pointer, self.resource.id):
                raise ValueError(
                    f"`redact` must not contain `{pointer}`: it identifies the resource, which every receipt names"
                )
        return self

    @model_validator(mode="after")
    def confirms_writes_only(self) -> "ToolConfig":
        if self.effect is Effect.READ and self.facts and self.facts.confirm:
            raise ValueError('`facts.confirm` is for tools that write, and this one has `effect = "read"`')
        return self

    @model_validator(mode="after")
    def notifies_nothing_confidential(self) -> "ToolConfig":
        for name in self.notify_fields:
            is_redacted = any(pointers_overlap(join_pointer([name]), pointer) for pointer in self.redact)
            if is_redacted or name in self.sensitive:
                why = "redacted" if is_redacted else "sensitive"
                raise ValueError(
                    f"`notify_fields` must not contain `{name}`: it is {why}, and notifications leave the guard"
                )
        return self

    def rule(self) -> ToolRule:
        config = self.facts
        facts = FactsRule(config.tool, config.arguments, config.result, config.fields) if config else None
        return ToolRule(
            effect=self.effect,
            resource=ResourceRule(self.resource.type, self.resource.id) if self.resource else None,
            facts=facts,
            redaction=make_redaction(self.redact, self.redact_result, facts),
            ask=self.ask,
            sensitive=self.sensitive,
            verb=self.verb,
            mode=self.mode,
            returns=self.returns,
            trusted=self.trusted,
            parties=self.parties,
            sinks=self.sinks,
            notify_fields=self.notify_fields,
            confirm=config is not None and config.confirm,
            also_changes=config.also_changes if config else (),
        )


class ResourceTypeConfig(ConfigModel):
    """The attributes (facts) of an entity type that policies may read; all are optional in the Cedar schema."""

    attributes: dict[str, AttributeKind]


class UriConfig(ConfigModel):
    """Labels of what reading a resource returns whose URI matches the pattern."""

    returns: tuple[Literal["untrusted", "sensitive"], ...]


def reserved_types(decide: Collection[str]) -> Collection[str]:
    """The types of entities that a configuration cannot define: the guard's own, and those of what is decided."""
    if not decide:
        return RESERVED_TYPES
    from mcp_guard.core.decided_methods import decided_methods

    return {*RESERVED_TYPES, *(method.type for method in decided_methods(decide))}


class RateConfig(ConfigModel):
    """A counter. One that sums, or counts by an argument, must name its tools; their calls are denied without it."""

    window_seconds: Annotated[int, Field(gt=0)]
    by: CountedBy | Annotated[tuple[CountedBy, ...], Field(min_length=1)] = ("agent", "user")
    effects: tuple[Effect, ...] = (Effect.WRITE, Effect.DESTRUCTIVE)
    tools: tuple[str, ...] = ()
    sum: Pointer | None = None

    @model_validator(mode="after")
    def names_its_tools(self) -> "RateConfig":
        if self.sum is not None and not self.tools:
            raise ValueError('`sum` requires the tools whose amounts are summed: tools = ["server__tool"]')
        if not self.tools and any(part.startswith(ARGUMENT) for part in _distinct(self.by)):
            raise ValueError(f'`by = ["{ARGUMENT}…"]` requires the tools that have it: tools = ["server__tool"]')
        return self

    def check_redaction(self, name: str, tools: Mapping[str, ToolConfig]) -> None:
        """Raises: ValueError."""
        pointers = [part.removeprefix(ARGUMENT) for part in _distinct(self.by) if part.startswith(ARGUMENT)]
        _check_redaction(f"rates.{name}.by", pointers, self.tools, tools)

    def counter(self, name: str) -> RateCounter:
        return RateCounter(name, self.window_seconds * SECOND, _distinct(self.by), self.effects, self.tools, self.sum)


def _distinct(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name, or several without repetitions."""
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))


def _check_redaction(
    key: str, pointers: Collection[str], names: Collection[str], tools: Mapping[str, ToolConfig]
) -> None:
    """What is not stored is no key either: a hash of it could be guessed. Raises: ValueError."""
    for tool in names:
        redacted = tools[tool].redact if tool in tools else ()
        if any(pointers_overlap(pointer, other) for pointer in pointers for other in redacted):
            raise ValueError(f"{key}: names an argument that tools.{tool}.redact keeps out of the ledger")


GroupedBy = Literal["instance", "agent", "user", "resource"]


class SequenceConfig(ConfigModel):
    """Whether a call of one of these tools came before. Without `within_seconds` it is one of the same instance."""

    tools: Annotated[tuple[str, ...], Field(min_length=1)]
    counts: StepOutcome = StepOutcome.SUCCEEDED
    by: GroupedBy | Annotated[tuple[GroupedBy, ...], Field(min_length=1)] = ("instance",)
    within_seconds: Annotated[int, Field(gt=0)] | None = None
    same: NonRootPointer | None = None
    earlier: NonRootPointer | None = None

    @model_validator(mode="after")
    def ends(self) -> "SequenceConfig":
        if self.earlier is not None and self.same is None:
            raise ValueError('`earlier` is where the earlier call has what is compared: add same = "/ARGUMENT"')
        if self.within_seconds is None and "instance" not in _distinct(self.by):
            raise ValueError('without "instance" in `by`, say how old the earlier call may be: within_seconds = 86400')
        return self

    def check_redaction(self, name: str, tools: Mapping[str, ToolConfig]) -> None:
        """Raises: ValueError."""
        pointers = [self.earlier or self.same] if self.same else []
        _check_redaction(f"sequences.{name}", [pointer for pointer in pointers if pointer], self.tools, tools)

    def rule(self, name: str) -> SequenceRule:
        window = None if self.within_seconds is None else self.within_seconds * SECOND
        return SequenceRule(
            name, self.tools, self.counts, _distinct(self.by), window, self.same, self.earlier or self.same
        )
