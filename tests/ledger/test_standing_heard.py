"""Whether the instance of a token may call is asked again only when a revocation is heard, or none would be."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcp_guard.core.credential import InvalidCredential
from mcp_guard.identity.bearer import OwnToken
from mcp_guard.ledger import registry
from mcp_guard.ledger.token_instances import IN_ORDER, TokenInstances
from mcp_guard.storage.rows import RevocationKey
from tests.ledger.on_database import RemoteGuard, exchanges, remote_guard, until
from tests.promises.harness import ALLOW, make_instance, open_harness

INSTANCE = make_instance()


@dataclass
class Checks:
    """Of the only token."""

    remote: RemoteGuard

    def __post_init__(self) -> None:
        self.instances = TokenInstances(self.remote.harness.ledger.ledger, {}, begun={"token": INSTANCE})

    async def cost(self) -> int:
        """How many exchanges with the database a check takes. Raises: InvalidCredential."""
        before = exchanges(self.remote.executor)
        await self.instances.own(OwnToken(INSTANCE.id, INSTANCE.credential_id, ""), "token")
        return exchanges(self.remote.executor) - before

    def revoke_elsewhere(self, key: RevocationKey) -> None:
        """By another process of the same database."""
        with closing(open_harness(self.remote.harness.folder, ALLOW, database=self.remote.database)) as other:
            other.ledger.writer.run(lambda tx: registry.revoke(tx, key, "drifts", "alice"))

    async def hear_revoked(self, key: RevocationKey) -> None:
        heard = self.remote.executor.revocations_heard
        self.revoke_elsewhere(key)
        await until(lambda: self.remote.executor.revocations_heard != heard)


async def test_is_asked_once_until_a_revocation_is_heard(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, listens=True) as remote:
        await until(lambda: remote.executor.revocations_heard)
        checks = Checks(remote)
        assert [await checks.cost() for _ in range(3)] == [1, 0, 0]
        await checks.hear_revoked(("agent", "another"))
        assert [await checks.cost() for _ in range(2)] == [1, 0]
        await checks.hear_revoked(("instance", INSTANCE.id))
        with pytest.raises(InvalidCredential, match="was revoked"):
            await checks.cost()


async def test_is_asked_each_time_while_no_revocation_would_be_heard(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, listens=True) as remote:
        await until(lambda: remote.executor.revocations_heard)
        checks = Checks(remote)
        assert await checks.cost() == 1
        remote.network.is_down = True
        remote.network.cut()
        await until(lambda: remote.executor.revocations_heard is None)
        checks.revoke_elsewhere(("instance", INSTANCE.id))
        remote.network.is_down = False
        with pytest.raises(InvalidCredential, match="was revoked"):
            await checks.cost()
        await until(lambda: remote.executor.revocations_heard)
        with pytest.raises(InvalidCredential, match="was revoked"):
            await checks.cost()


async def test_is_asked_again_after_a_while_and_ends_with_the_credential(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, listens=True) as remote:
        await until(lambda: remote.executor.revocations_heard)
        checks = Checks(remote)
        assert await checks.cost() == 1
        remote.harness.clock.time += IN_ORDER
        assert [await checks.cost() for _ in range(2)] == [1, 0]
        remote.harness.clock.time = INSTANCE.expires
        with pytest.raises(InvalidCredential, match="expired"):
            await checks.cost()
