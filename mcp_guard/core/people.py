"""Who is who: which approvers are, or may be, the people who made a request (promise P4). Pure.

People are compared by their identities, an issuer and a subject each. The empty issuer stands for the names of this
guard's configuration: approvers' ids, owners, and the users that a launcher names. Where nothing maps an identity to a
person, similar texts only exclude approvers; nothing is ever allowed because texts differ.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

OWN_NAMES = ""
"""The issuer of the names that the configuration and the launcher use."""
_SEPARATORS = re.compile(r"""[^\w.@-]""")
"""What stands between a name and what surrounds it, in identifiers, addresses and distinguished names."""
_GUEST = "#ext#"
"""Marks a guest of Microsoft Entra ID: `dana_corp.example#EXT#@tenant.example` is `dana@corp.example`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One person as one issuer knows them: the `iss` and `sub` of a token (OpenID Connect Core §2)."""

    issuer: str
    subject: str


@dataclass(frozen=True, slots=True)
class People:
    """The people that the configuration names.

    `approvers` maps identities to approvers' ids, and `names` their ids to the names that receipts print. `others` are
    identities of people who are no approvers. `users` are own names that the operator uses for owners and users.
    """

    approvers: Mapping[Identity, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    others: frozenset[Identity] = frozenset()
    users: frozenset[str] = frozenset()


def canonical_identity(people: People, identity: Identity) -> Identity:
    """The same for all identities of an approver: what is one person's is found under each of them."""
    approver = people.approvers.get(identity)
    return identity if approver is None else Identity(OWN_NAMES, approver)


@dataclass(frozen=True, slots=True)
class Requesters:
    """The approvers who made a request, or may have; and whether nothing says who its user is."""

    approvers: tuple[str, ...]
    is_user_unknown: bool


def find_requesters(people: People, eligible: Iterable[str], owner: str, user: Identity | None) -> Requesters:
    """Who made a request: the owner of its agent, and the user that this acts for, if there is one.

    `eligible` are the ids of the approvers who might decide on it.
    """
    eligible = sorted({*eligible, *people.names})
    identities = [Identity(OWN_NAMES, owner), *([user] if user else [])]
    requesters: set[str] = set()
    is_unknown = False
    for identity in identities:
        is_own = identity.issuer == OWN_NAMES
        if (mapped := people.approvers.get(identity)) is not None:
            requesters.add(mapped)
        elif is_own and identity.subject in eligible:
            requesters.add(identity.subject)
        elif identity not in people.others:
            requesters |= {id for id in eligible if may_be(people, id, identity.subject)}
            is_operators = is_own and identity.subject in {owner, *people.users}
            is_unknown |= not is_operators
    return Requesters(tuple(sorted(requesters)), is_unknown)


def may_be(people: People, approver: str, text: str) -> bool:
    """Whether a text may name this approver: ignoring case, compatible characters, and what surrounds the name."""
    subjects = [identity.subject for identity, id in people.approvers.items() if id == approver]
    names = {fold(name) for name in (approver, people.names.get(approver, ""), *subjects)}
    known = {form for name in names for form in (name, name.partition("@")[0])}
    return not known.isdisjoint(_forms(text))


def _forms(text: str) -> set[str]:
    r"""The text, and each name in it: `dana` of `CORP\Dana`, `Dana <dana@corp.example>`, `auth0|dana` or `uid=dana`."""
    whole = fold(text)
    if _GUEST in whole:
        whole = "@".join(whole.partition(_GUEST)[0].rsplit("_", 1))
    words = [word.strip("@._-") for word in _SEPARATORS.split(whole)]
    return {form for word in (whole, *words) for form in (word, word.partition("@")[0]) if form}


def fold(text: str) -> str:
    """The text in one case and form, without accents, spaces and invisible characters."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) not in ("Cf", "Cc", "Mn"))
