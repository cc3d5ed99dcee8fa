"""Maps a verified token to its instance in the ledger, which is created for a new token of another issuer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from mcp_guard.core.credential import InvalidCredential, read_unverified
from mcp_guard.core.model import SECOND, Instance, Micros, Task
from mcp_guard.core.names import instance_id
from mcp_guard.core.receipt import format_time
from mcp_guard.core.tlog import note
from mcp_guard.identity.bearer import ExternalToken, OwnToken
from mcp_guard.identity.ed25519 import AnyPublicKey, PublicKey
from mcp_guard.identity.instances import Issuer
from mcp_guard.ledger import registry
from mcp_guard.ledger.key_chain import receipted_keys
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.ledger.writer import Transaction
from mcp_guard.settings import AgentSettings
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import GuardKey

T = TypeVar("T")
MAX_CACHED = 1000
IN_ORDER = 5 * SECOND
"""How long the answer that an instance may call is used again, where revocations are heard of. Every call and every
listing asks the ledger itself."""


class _InOrder(NamedTuple):
    """An instance that may call. `heard` is what `revocations_heard` was before the ledger was asked."""

    heard: int
    until: Micros


@dataclass(frozen=True, slots=True)
class TokenInstances:
    """Token lookup for one guard process that serves HTTP; `agents` are those of the configuration."""

    ledger: SqlLedger
    agents: Mapping[str, AgentSettings]
    begun: dict[str, Instance] = field(default_factory=dict, repr=False)
    """Cache of instances that have begun, which never change, by our own token. Whether they may call is checked
    each time."""
    in_order: dict[str, _InOrder] = field(default_factory=dict, repr=False)
    """Instances that may call, by id."""
    chains: set[tuple[GuardKey, ...]] = field(default_factory=set, repr=False)
    """What the table of keys said when it was as the receipts say."""

    def now(self) -> Micros:
        return self.ledger.writer.now()

    async def issuer_of(self, token: str, own: Issuer) -> Issuer:
        """The guard as the issuer of this token, with the key that was in force when its instance was issued: a
        rotation ends no credential, and a retired key cannot sign one for a later instance. The token is not verified.

        Raises: InvalidCredential, LedgerError.
        """
        id = read_unverified(token).claims.get("instance")
        keys = await self.ledger.writer.query(lambda store: self._keys_for(store, id)) if isinstance(id, str) else []
        return replace(own, public_key=keys[-1], other_keys=tuple(keys[:-1])) if keys else own

    def _keys_for(self, store: Store, id: str) -> list[AnyPublicKey]:
        """The keys in force when this instance was issued: one, or two if that was in the microsecond of a rotation.

        Raises: LedgerError.
        """
        if (row := store.instance(id)) is None:
            return []
        chain = tuple(store.guard_keys())
        if chain not in self.chains:
            chain = tuple(receipted_keys(store))
            self.chains.add(chain)
        keys: list[AnyPublicKey] = []
        until: Micros | None = None
        for key in reversed(chain):
            rotation = store.receipt(key.since - 1)
            since = rotation.at if rotation else 0
            if since <= row.instance.started and (until is None or row.instance.started <= until):
                keys.append(PublicKey.from_public_bytes(note.parse_verifier(key.verifier)[2]))
            until = since
        return keys

    async def own(self, verified: OwnToken, token: str) -> Instance:
        """Raises: InvalidCredential, LedgerError."""
        if (begun := self.begun.get(token)) is not None:
            await self._check(begun)
            return begun
        row = await self.ledger.writer.query(lambda store: store.instance(verified.instance))
        if row is None or row.instance.credential_id != verified.credential_id:
            raise InvalidCredential("this ledger knows no such credential")
        await self._check(row.instance)
        if row.begun is None:
            await self.ledger.writer.submit(lambda tx: registry.begin(tx, row.instance, self.ledger.guard))
        instance = replace(row.instance, credential=token)
        _keep(self.begun, token, instance)
        return instance

    async def foreign(self, verified: ExternalToken, token: str) -> Instance:
        """Raises: InvalidCredential, IdentityError, LedgerError."""
        credential_id = f"cred_{verified.id[:24]}"
        row = await self.ledger.writer.query(lambda store: store.instance_of_credential(credential_id))
        if row is not None:
            instance = row.instance
        else:
            agents = await self.ledger.writer.query(lambda store: registry.all_agents(self.agents, store))
            enrolled, started = registry.find_agent(agents, verified.agent), verified.issued * SECOND
            new = Instance(
                id=instance_id(format_time(started), verified.id[:12]),
                agent=enrolled.agent,
                on_behalf_of=verified.user,
                task=Task(text=verified.task),
                started=started,
                expires=min(verified.expires * SECOND, self.now() + enrolled.credential_seconds * SECOND),
                credential="",
                credential_id=credential_id,
                user_issuer=verified.issuer,
            )
            instance = await self.ledger.writer.submit(lambda tx: self._add(tx, new, verified))
        known = instance.agent.name, instance.on_behalf_of, instance.task.text
        if known != (verified.agent, verified.user, verified.task):
            raise InvalidCredential("its `jti` is that of a token for another agent, user or task")
        await self._check(instance)
        return replace(instance, credential=token)

    def _add(self, tx: Transaction, instance: Instance, verified: ExternalToken) -> Instance:
        """Returns the instance in the ledger, which another process may have added first."""
        if (row := tx.store.instance_of_credential(instance.credential_id)) is not None:
            return row.instance
        registry.issue(tx, instance, {"thumbprint": verified.thumbprint, "by": "token"})
        registry.begin(tx, instance, self.ledger.guard)
        return instance

    async def _check(self, instance: Instance) -> None:
        """Raises: InvalidCredential if it may not call, LedgerError."""
        now, heard = self.now(), self.ledger.writer.executor.revocations_heard
        known = self.in_order.get(instance.id)
        if heard is not None and known is not None and known.heard == heard and now < known.until:
            return
        if why := await self.ledger.writer.query(lambda store: registry.why_barred(store, instance, now)):
            raise InvalidCredential(why)
        if heard is not None:
            _keep(self.in_order, instance.id, _InOrder(heard, min(now + IN_ORDER, instance.expires)))


def _keep(cache: dict[str, T], key: str, value: T) -> None:
    if len(cache) >= MAX_CACHED:
        cache.clear()
    cache[key] = value
