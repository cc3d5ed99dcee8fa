"""What an approver is shown of a held call, and what `guard__await` repeats once the call is approved. Pure.

The ledger keeps it as JSON, in a column of the approval and as the payload of its receipt. `from_json` reads that
document and `to_json` writes the same one again, member by member in the same order.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self

from mcp_guard.core.canonical import exact_numbers, with_exact_numbers
from mcp_guard.core.describe import ADDED
from mcp_guard.core.model import Json, Resource

ERASED = "[erased]"
NULLABLE = ("resource_argument", "deed")
"""Members that are written as `null` where there is no value; every other one is left out."""
LISTS = (
    "requesting", "changes", "sensitive", "sinks", "notify_fields", "policies", "reasons", "numbers", "redacted",
)  # fmt: skip


NAME_USER = "name the user under [people], or as one of the identities of an approver"
"""What to do about a user whom the configuration does not know."""


@dataclass(frozen=True, slots=True)
class SubjectRisk:
    """The risk of the call as shown; each signal is one line: `name (weight): reason`."""

    score: int
    level: str
    signals: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalSubject:
    """One held call as its approver sees it. INVARIANT: the order of the fields is that of the stored document."""

    agent: str
    owner: str
    instance: str
    credential: str
    on_behalf_of: str | None = None
    user_issuer: str | None = None
    """Who vouches for the user; None for the launcher."""
    requesting: tuple[str, ...] = ()
    """Ids of the approvers who are, or may be, the owner or the user."""
    unknown_user: bool | None = None
    """True if nothing says who the user is, so that a second person must approve."""
    call: str
    purpose: str | None = None
    ticket: str | None = None
    reason: str | None = None
    """Why the agent says that it makes the call."""
    upstream: str
    tool: str
    """The name under which the agent is listed the tool."""
    definition: str
    """Hash of the tool's definition."""
    resource: Resource | None = None
    binding: Json
    """What the approval is bound to (`core.approval.binding`)."""
    resource_argument: str | None = None
    """The argument that names the resource."""
    deed: str | None = None
    arguments: Json
    meta: Json | None = None
    """The members of `_meta` that are sent with the call."""
    claims: Json
    """Arguments that the guard added to the tool, and took out of the call: a ticket, a reason."""
    present: Json
    """Present values of the arguments that would change, and of sensitive ones and sinks, where they are known."""
    facts: Json | None = None
    """What else the configuration names of the resource's present state, as shown: redacted, long values cut."""
    changes: tuple[str, ...]
    """Arguments whose value would change."""
    delta: Mapping[str, str]
    effect: str | None = None
    """What the tool does to its resource (`core.model.Effect`)."""
    sensitive: tuple[str, ...] = ()
    """Arguments of this call that the configuration calls sensitive."""
    sinks: tuple[str, ...] = ()
    """Arguments of this call that name a destination: configured, or found by where their values come from."""
    notify_fields: tuple[str, ...] = ()
    """Arguments whose values notifications may carry."""
    policies: tuple[str, ...]
    reasons: tuple[str, ...]
    risk: SubjectRisk
    routes: Mapping[str, str]
    """The text that the configuration has for each route."""
    signed: Json
    """What approvers sign of the call in clear, with the commitment to its exact request (`core.approval`)."""
    steps: tuple[tuple[str, str], ...] = ()
    """The steps of sequences that a denial takes (`core.sequences`)."""
    numbers: tuple[str, ...] | None = None
    """JSON pointers to the arguments that are numbers of more digits than JSON libraries keep: stored as text."""
    redacted: tuple[str, ...] | None = None
    """JSON pointers to the values that are kept no longer than the request is open; None without redaction."""
    erased: bool = False
    drill: Json | None = None
    """Of a drill, what its decision hash commits to: why it is wrong, and the arguments that are (`core.drills`)."""

    @property
    def name_user(self) -> str:
        """What to do if the configuration did not know the user: the rules of this request stay as they are."""
        revoke = f"mcp-guard instances revoke --instance {self.instance} --allow-new --why TEXT"
        return f"{NAME_USER}; restart the guard; then {revoke}, so that a new run asks again"

    @property
    def has_exact_arguments(self) -> bool:
        """False if arguments are redacted or erased: then they can be shown, and not be sent."""
        return not (self.redacted or self.erased)

    @property
    def freeable(self) -> Json:
        """What a grant may leave free: the arguments, and the ticket and reason that the agent claims."""
        return self.arguments | self.claims

    @property
    def requesters(self) -> tuple[str | None, ...]:
        """The people who made the request, and so may not decide on it: the agent's owner and the user it acts for."""
        return self.owner, self.on_behalf_of, *self.requesting

    @property
    def claimed(self) -> tuple[str, ...]:
        """`ticket` and `reason`, if the agent gave them with the call: they are its claims."""
        return tuple(name for name, argument in ADDED.items() if argument in self.claims)

    def without_payloads(self) -> "ApprovalSubject":
        """The subject without any value that came from a payload; the receipts say the rest anyway."""
        names_only = tuple(signal.partition(":")[0] for signal in self.risk.signals)
        return replace(
            self,
            arguments=dict.fromkeys(self.changes, ERASED),
            meta=dict.fromkeys(self.meta, ERASED) if self.meta else None,
            claims=dict.fromkeys(self.claims, ERASED),
            present={},
            facts=None,
            delta={},
            sensitive=tuple(name for name in self.sensitive if name in self.changes),
            sinks=tuple(name for name in self.sinks if name in self.changes),
            notify_fields=(),
            risk=replace(self.risk, signals=names_only),
            erased=True,
        )

    def to_json(self) -> Json:
        members = {
            **{name: getattr(self, name) for name in self.__slots__},
            "resource": asdict(self.resource) if self.resource else None,
            "requesting": list(self.requesting) or None,
            "changes": list(self.changes),
            "sensitive": list(self.sensitive) or None,
            "sinks": list(self.sinks) or None,
            "notify_fields": list(self.notify_fields) or None,
            "policies": list(self.policies),
            "reasons": list(self.reasons),
            "risk": {"score": self.risk.score, "level": self.risk.level, "signals": list(self.risk.signals)},
            "steps": [list(step) for step in self.steps] or None,
            "numbers": exact_numbers(self.arguments) or None,
            "redacted": None if self.redacted is None else list(self.redacted),
            "erased": self.erased or None,
        }
        return {name: value for name, value in members.items() if value is not None or name in NULLABLE}

    @classmethod
    def from_json(cls, document: Json) -> Self:
        """The subject in a document that `to_json` wrote; members that it does not know are ignored."""
        members = {name: document[name] for name in cls.__slots__ if name in document}
        for name in LISTS:
            if name in members:
                members[name] = tuple(members[name])
        if "steps" in members:
            members["steps"] = tuple((counter, key) for counter, key in members["steps"])
        if "numbers" in members:
            members["arguments"] = with_exact_numbers(members["arguments"], members["numbers"])
        if "resource" in members:
            members["resource"] = Resource(**members["resource"])
        risk = members["risk"]
        members["risk"] = SubjectRisk(risk["score"], risk["level"], tuple(risk["signals"]))
        return cls(**members)
