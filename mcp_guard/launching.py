"""Starts the event loop of a guard, and its instances: one for each launch or connection, or a shared one."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mcp_guard.core.errors import GuardError, LedgerError
from mcp_guard.core.model import Instance, Json
from mcp_guard.identity.host_process import parent_of
from mcp_guard.identity.instances import (
    InstanceSpec,
    Launch,
    reissue_credential,
    shared_launch_key,
    start_instance,
)
from mcp_guard.ledger import registry
from mcp_guard.ledger.open import OpenLedger
from mcp_guard.ledger.writer import Op, Transaction
from mcp_guard.runtime import Runtime
from mcp_guard.settings import InstanceScope

if TYPE_CHECKING:
    from mcp_guard.downstream.unix import UnixPeer


async def on_loop(ledger: OpenLedger, serve: Callable[[], Awaitable[None]]) -> None:
    async with ledger.on_loop():
        await serve()


def launching(
    runtime: Runtime, launch: Launch, user: int, pid: int, *, may_share: bool = True
) -> Op[tuple[Instance, Json | None]]:
    """Gives the instance of a launch by this user's process: a new one, which is not in the ledger yet, and what binds
    its credential; or the one that launches of the agent share, which is. Raises: IdentityError."""

    def op(tx: Transaction) -> tuple[Instance, Json | None]:
        enrolled = registry.find_agent(registry.all_agents(runtime.settings.agents, tx.store), launch.agent)
        named = replace(launch, agent=enrolled.agent.name, on_behalf_of=launch.on_behalf_of or enrolled.on_behalf_of)
        spec = InstanceSpec(enrolled.agent, named, enrolled.credential_seconds)
        scope = enrolled.scope or runtime.settings.instance_scope
        if scope is InstanceScope.LAUNCH or not may_share:
            return start_instance(runtime.issuer, spec, runtime.now())
        host = parent_of(pid) if scope is InstanceScope.HOST_SESSION else None
        key = shared_launch_key(scope, spec, user, host)
        instance = registry.join(tx, key, lambda: start_instance(runtime.issuer, spec, tx.now), runtime.ledger.guard)
        return (instance if instance.credential else reissue_credential(runtime.issuer, instance)), None

    return op


async def issue_to(
    runtime: Runtime, agent: str, peer: "UnixPeer", task: str = "", *, by: str = "socket", may_share: bool = True
) -> Instance:
    """A new instance for a process that has connected, for the user's request `task`, if it is known.

    If this is cancelled, the instance has ended.
    """
    writer = runtime.ledger.writer
    launched = launching(runtime, Launch(agent, task=task or None), peer.uid, peer.pid, may_share=may_share)

    def op(tx: Transaction) -> Instance:
        instance, bound = launched(tx)
        if bound is not None:
            runtime.issue(instance, bound | {"by": by, "uid": peer.uid, "pid": peer.pid})(tx)
            runtime.begin(instance)(tx)
        return instance

    async def end() -> None:
        with suppress(GuardError):  # there is no instance
            await leave(runtime, await issued.outcome)

    issued = writer.submit(op)
    try:
        return await issued
    except asyncio.CancelledError:
        if not issued.outcome.cancelled():
            await asyncio.shield(end())
        raise


async def leave(runtime: Runtime, instance: Instance) -> None:
    try:
        await runtime.ledger.writer.submit(lambda tx: registry.leave(tx, instance))
    except LedgerError as error:  # the credential expires anyway; the other sessions go on
        runtime.note(str(error))
