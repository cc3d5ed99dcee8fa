"""Sign-in sessions of browsers, which the pages of all gateways share.

A session is a bearer token, kept by the SHA-256 of it. At an https origin the browser keeps the token in a cookie; on
loopback the page keeps it in `localStorage`, and the session ends with the process: any program may listen on the port
once it is free (`web/carrier.py`).

A token is replaced when somebody signs in or enrols a key, and every hour. The old one is good for a few seconds more,
for what the browser has sent meanwhile: the new token is made from it, so each of these answers brings the same.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from mcp_guard.core import base64url
from mcp_guard.core.model import MINUTE, SECOND, Json, Micros
from mcp_guard.core.sign_in import SignIn
from mcp_guard.ledger.approvals.approver_keys import CodeKind
from mcp_guard.storage.items import Item, Items
from mcp_guard.web.roles import Role

KIND = "session"
ENROLMENT_LIFETIME = 10 * MINUTE
"""How long after a sign-in with a code that code authorizes one enrolment."""
CHALLENGE_LIFETIME = 5 * MINUTE
ROTATION = 60 * MINUTE
GRACE = 30 * SECOND
"""How long a token that was replaced is good for."""
NOTE_USE = MINUTE
"""How often the use of a session is written."""
MAX_SESSIONS = 10
"""Per person; one more ends the session that was used the longest time ago."""
TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Person:
    """Who has signed in. `approver` is their id, or empty for somebody who is none. `issuer` and `subject` are those of
    an identity provider, empty after a local sign-in; `claims` are what roles are computed from."""

    approver: str
    name: str = ""
    issuer: str = ""
    subject: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)
    acr: str = ""
    amr: tuple[str, ...] = ()
    auth_time: int = 0
    """In seconds; 0 if it is not known."""

    @property
    def sign_in(self) -> SignIn | None:
        """As votes and receipts say it; None after a local sign-in."""
        if not self.issuer:
            return None
        return SignIn(self.issuer, self.subject, self.acr, self.amr, self.auth_time * SECOND or None)

    @property
    def owner(self) -> str:
        """Whose the session is, for all that end together."""
        return owner_of(self.approver) if self.approver else f"person/{self.issuer} {self.subject}"


def owner_of(approver: str) -> str:
    return f"approver/{approver}"


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """One browser of one person. `code` is the kind of code that it signed in with, until that code has authorized an
    enrolment. `removed_keys` is how many of the approver's keys had been removed when it began. `id` is the same over
    all its tokens. `roles` are those of now."""

    person: Person
    id: str
    since: Micros
    used: Micros
    rotated: Micros
    removed_keys: int
    code: CodeKind | None
    is_replaced: bool
    item: Item
    roles: frozenset[Role] = frozenset()

    @property
    def approver(self) -> str:
        return self.person.approver

    @property
    def name(self) -> str:
        return self.person.name or self.person.approver

    def enrolment_code(self, now: Micros) -> CodeKind | None:
        """The kind of code that still authorizes an enrolment, if any."""
        return self.code if now - self.since <= ENROLMENT_LIFETIME else None


@dataclass(frozen=True, slots=True)
class SessionLifetimes:
    """How long a session lives, in all and unused."""

    lifetime: Micros = 8 * 60 * MINUTE
    idle: Micros = 30 * MINUTE


@dataclass(frozen=True, slots=True)
class BrowserSessions:
    """The sessions of one origin. `key` makes the tokens that replace others; who knows it and a token knows the next
    one. `realm` is part of what tokens are kept by: with a random one, the sessions end with this process."""

    items: Items
    key: bytes = field(repr=False)
    realm: str = ""
    limits: SessionLifetimes = SessionLifetimes()

    async def open(self, person: Person, now: Micros, removed_keys: int = 0, code: CodeKind | None = None) -> str:
        """Start a session. Returns its token, 256 random bits. Raises: LedgerError."""
        own = [_read(item) for item in await self.items.find_all(KIND, person.owner, now)]
        own.sort(key=lambda session: session.used)
        for session in own[: max(0, len(own) - MAX_SESSIONS + 1)]:
            await self.items.delete(KIND, session.item.key)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        value = {"id": secrets.token_hex(16), "since": now, "used": now, "rotated": now, "removed_keys": removed_keys}
        await self.items.put(self._item(token, _dump(person) | value | {"code": code}, person.owner), now)
        return token

    async def find_item(self, token: str, now: Micros) -> Item | None:
        """What is kept of the session of this token; None if it has ended. It is no use of it. Raises: LedgerError."""
        return await self.items.get(KIND, self._hash(token), now)

    async def find(
        self, token: str, now: Micros, is_use: bool = True, found: Item | None = None
    ) -> BrowserSession | None:
        """The session of this token, or None if it has ended. It counts as used now, unless only a script has asked.
        `found` is its item, if somebody has just looked it up.

        Raises: LedgerError.
        """
        item = found or await self.find_item(token, now)
        if item is None:
            return None
        session = _read(item)
        if not is_use or session.is_replaced or now - session.used < NOTE_USE:
            return session
        used = self._with(item, used=now)
        return _read(used if await self.items.swap(item, used) else item)  # or somebody else has noted it

    async def renew(self, token: str, session: BrowserSession, now: Micros, force: bool = False) -> str | None:
        """The token that replaces this one, once it is due or with `force`; None while it is not. Raises:
        LedgerError."""
        if not (session.is_replaced or force or now - session.rotated >= ROTATION):
            return None
        new = _token(hmac.digest(self.key, b"mcp-guard/rotation/v1" + token.encode(errors="replace"), "sha256"))
        if session.is_replaced:
            return new
        value = orjson.loads(session.item.value) | {"rotated": now, "code": None}
        await self.items.put(self._item(new, value, session.item.owner), now)
        if not await self._change(session.item, now, expires=now + GRACE, replaced=True, code=None):
            await self.items.delete(KIND, self._hash(new))  # the session was ended meanwhile
            return None
        return new

    async def take_code(self, session: BrowserSession, now: Micros) -> bool:
        """Use up the code of the session: true for one caller only. Raises: LedgerError."""
        item: Item | None = session.item
        while item is not None and _read(item).code is not None:
            if await self.items.swap(item, self._with(item, code=None)):
                return True
            item = await self.items.get(KIND, item.key, now)
        return False

    async def give_code_back(self, session: BrowserSession, now: Micros) -> None:
        """What it was used up for was refused. Raises: LedgerError."""
        await self._change(session.item, now, code=session.code)

    async def close(self, session: BrowserSession, now: Micros) -> None:
        """End it, with all its tokens. Raises: LedgerError."""
        await _end(self.items, session.item.owner, now, lambda other: other.id == session.id)

    async def close_of_provider(self, issuer: str, subject: str, session: str, now: Micros) -> set[str]:
        """End the sessions that an identity provider has begun, by its `sub`, its `sid` or both. Returns whose.

        Raises: LedgerError.
        """

        def is_theirs(other: BrowserSession) -> bool:
            claims = other.person.claims
            is_person = other.person.issuer == issuer and subject in ("", claims.get("sub"))
            return is_person and session in ("", claims.get("sid"))

        return {ended.approver for ended in await _end(self.items, None, now, is_theirs)} - {""}

    async def close_all(self, owner: str, now: Micros) -> int:
        """Sign somebody out everywhere; returns how many sessions they had. Raises: LedgerError."""
        return await close_sessions(self.items, owner, now)

    async def _change(self, item: Item | None, now: Micros, expires: Micros | None = None, **changes: Any) -> bool:
        """Change members of what is there, whatever else was changed meanwhile; false if it is there no more."""
        while item is not None and not await self.items.swap(item, self._with(item, expires, **changes)):
            item = await self.items.get(KIND, item.key, now)
        return item is not None

    def _with(self, item: Item, expires: Micros | None = None, **changes: Any) -> Item:
        value = orjson.loads(item.value) | changes
        kept = item.expires if value.get("replaced") else self._expiry(value)
        return replace(item, value=orjson.dumps(value), expires=expires or kept)

    def _item(self, token: str, value: Json, owner: str) -> Item:
        return Item(KIND, self._hash(token), owner, orjson.dumps(value), self._expiry(value))

    def _expiry(self, value: Json) -> Micros:
        return 1 + min(int(value["since"]) + self.limits.lifetime, int(value["used"]) + self.limits.idle)

    def _hash(self, token: str) -> str:
        return hashlib.sha256(f"{self.realm}\0{token}".encode(errors="replace")).hexdigest()


async def close_sessions(items: Items, owner: str | None, now: Micros) -> int:
    """End all sessions of somebody, or of everybody; returns how many there were. Raises: LedgerError."""
    return len(await _end(items, owner, now))


async def _end(
    items: Items, owner: str | None, now: Micros, is_meant: Callable[[BrowserSession], bool] = lambda _: True
) -> list[BrowserSession]:
    """End the sessions of somebody that are meant, or of everybody; returns them.

    It looks again until there is none, because a token may be replaced meanwhile: either its successor is found, or
    whoever replaces it finds it gone.
    """
    ended: dict[str, BrowserSession] = {}
    while found := [session for session in map(_read, await items.find_all(KIND, owner, now)) if is_meant(session)]:
        for session in found:
            await items.delete(KIND, session.item.key)
            ended[session.id] = session
    return list(ended.values())


def _dump(person: Person) -> Json:
    return {"person": {name: getattr(person, name) for name in person.__slots__}}


def _read(item: Item) -> BrowserSession:
    value = orjson.loads(item.value)
    person = value["person"]
    return BrowserSession(
        person=Person(**person | {"amr": tuple(person["amr"])}),
        id=value["id"],
        since=value["since"],
        used=value["used"],
        rotated=value["rotated"],
        removed_keys=value["removed_keys"],
        code=value["code"],
        is_replaced=value.get("replaced", False),
        item=item,
    )


def _token(bits: bytes) -> str:
    return base64url.encode(bits)
