"""Who may call: instances are issued, begun, ended and revoked; agents are enrolled, disabled and enabled.

Each step is receipted in its own transaction. A revocation takes effect in every process on the ledger: it is looked up
with each call, and again in the transaction that would write the intent.
"""

import hashlib
from collections.abc import Callable, Mapping

import orjson

from mcp_guard.core import credential
from mcp_guard.core.approval import OPEN, ApprovalEvent, ApprovalState
from mcp_guard.core.errors import IdentityError
from mcp_guard.core.model import Agent, Instance, Json, Micros, Tool
from mcp_guard.core.nearest import nearest
from mcp_guard.core.receipt import Draft, format_time, instance_fields
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.grants import revoke_grant
from mcp_guard.ledger.writer import Transaction
from mcp_guard.settings import AgentSettings
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import NO_INSTANCE, RevocationKey

FOREVER = 2**62
"""Until when a disabled agent is revoked; finite, so that enabling the agent is a compare-and-set."""


def revocation_keys(instance: Instance) -> list[RevocationKey]:
    """Everything whose revocation revokes this instance."""
    keys: list[RevocationKey] = [("instance", id) for id in (instance.id, *instance.parents)]
    keys.append(("agent", instance.agent.name))
    return [*keys, ("user", instance.on_behalf_of)] if instance.on_behalf_of else keys


def why_barred(store: Store, instance: Instance, now: Micros) -> str | None:
    """Why this instance may not call now, or None."""
    if why := credential.check_time(instance.started, instance.expires, now):
        return why
    if key := store.revoked(revocation_keys(instance), instance.started):
        others = "" if key == ("instance", instance.id) else f", together with everything of {key[0]} `{key[1]}`"
        return f"the credential of this instance was revoked{others}"
    return None


def may_call(store: Store, instance: Instance, tool: Tool, now: Micros) -> bool:
    """Whether this instance may call now, and the tool's definition is in force: what `why_barred` and the pin say,
    with one look at the ledger. What is no tool has no pin.
    """
    if tool.method is not None:
        return why_barred(store, instance, now) is None
    keys = revocation_keys(instance)
    return not credential.check_time(instance.started, instance.expires, now) and store.is_in_order(
        keys, instance.started, tool.server, tool.name, tool.definition_hash
    )


# The steps


def issue(tx: Transaction, instance: Instance, more: Json) -> None:
    """Add the instance. `more` are receipt fields that say what its credential is bound to.

    Raises: IdentityError if it is revoked.
    """
    if key := tx.store.revoked(revocation_keys(instance), instance.started):
        hints = {"agent": f"to allow new instances again: mcp-guard agents enable {key[1]} --why TEXT"}
        state = "disabled" if key[0] == "agent" else "revoked"
        raise IdentityError(f"{key[0]} `{key[1]}` is {state}", hints.get(key[0], "mcp-guard instances list --all"))
    tx.store.add_instance(instance)
    fields = instance_fields(instance) | {"expires": format_time(instance.expires), "depth": instance.depth or None}
    narrowed = list(instance.tools) if instance.tools != ("*",) else None
    parent = instance.parents[-1] if instance.parents else None
    tx.add(Draft("credential.issued", {**fields, "tools": narrowed, "parent": parent, **more}))


def begin(tx: Transaction, instance: Instance, guard: str) -> None:
    """Record that the first session of the instance opens."""
    if tx.store.begin_instance(instance.id, tx.now):
        launched = {"ticket": instance.task.ticket, "reason": instance.task.reason, "guard": guard}
        asked = {"request": orjson.dumps(instance.task.text)} if instance.task.text else {}
        tx.add(Draft("instance.started", instance_fields(instance) | launched, asked))


def join(tx: Transaction, key: str, new: Callable[[], tuple[Instance, Json]], guard: str) -> Instance:
    """The instance that all launches with this key share; a `new` one if there is none whose credential is valid.

    One that was itself revoked is joined as well, so that its next call is refused, and not the first of another one
    (promise P7). If its agent or user was revoked, and may call again, a new instance starts.

    Raises: IdentityError if the agent or user is revoked.
    """
    id = tx.store.shared_launch(key)
    if (row := tx.store.instance(id) if id else None) is not None:
        instance = row.instance
        barred_by = tx.store.revoked(revocation_keys(instance), instance.started)
        if tx.now < instance.expires and row.ended is None and barred_by in (None, ("instance", instance.id)):
            tx.add(Draft("instance.joined", instance_fields(instance) | {"guard": guard}))
            return instance
        end(tx, instance)
    instance, bound = new()
    issue(tx, instance, bound)
    begin(tx, instance, guard)
    tx.store.share_launch(key, instance.id, instance.expires, tx.now)
    return instance


def end(tx: Transaction, instance: Instance) -> None:
    """Record that the instance has ended, and close its open requests."""
    if tx.store.end_instance(instance.id, tx.now):
        close_requests_of(tx, instance.id, "the instance has ended")
        tx.add(Draft("instance.ended", instance_fields(instance)))


def leave(tx: Transaction, instance: Instance) -> None:
    """A session that was alone in using its instance has closed: end it, unless further launches may join it."""
    if not tx.store.is_shared(instance.id):
        end(tx, instance)


def close_requests_of(tx: Transaction, instance: str, note: str) -> None:
    """Withdraw the open requests of an instance, and revoke its grants."""
    drills = [drill for drill in tx.store.approvals(OPEN, NO_INSTANCE) if drill.instance == instance]
    for approval in [*tx.store.approvals(OPEN, instance), *drills]:
        event = ApprovalEvent.WITHDRAW if approval.state is ApprovalState.REQUESTED else ApprovalEvent.OUTDATE
        transitions.move(tx, approval, event, note)
    for grant in tx.store.grants(instance, "active"):
        revoke_grant(tx, grant, note)
    tx.store.close_approvals_of(instance)


def revoke(
    tx: Transaction,
    key: RevocationKey,
    note: str,
    by: str,
    until: Micros | None = None,
    *,
    allow_new: bool = False,
    more: Json | None = None,
) -> list[Instance]:
    """Revoke all instances under this key that have started so far; returns those that could still call.

    With `allow_new`, launches that share one of them start another one. `more` are further fields of the receipt.
    """
    named = [row.instance for row in tx.store.instances(tx.now) if key in revocation_keys(row.instance)]
    alive = [item for item in named if not tx.store.revoked(revocation_keys(item), item.started)]
    tx.store.revoke(key, tx.now if until is None else until)
    ids = [instance.id for instance in alive]
    fields: Json = {"scope": key[0], "name": key[1], "note": note, "by": by, "instances": ids}
    tx.add(Draft("credential.revoked", fields | {"disabled": True if until == FOREVER else None} | (more or {})))
    for id in (instance.id for instance in named):
        close_requests_of(tx, id, f"revoked: {note}")
        if allow_new:
            tx.store.forget_launches(id)
    return alive


def revoke_with_requests(
    tx: Transaction,
    key: RevocationKey,
    note: str,
    by: str,
    until: Micros | None = None,
    *,
    allow_new: bool = False,
    more: Json | None = None,
) -> tuple[list[Instance], list[str]]:
    """As `revoke`; returns also the ids of the requests that it withdrew before anybody had decided on them."""
    undecided = tx.store.open_ids()
    alive = revoke(tx, key, note, by, until, allow_new=allow_new, more=more)
    return alive, sorted(undecided - tx.store.open_ids())


def enrol_agent(tx: Transaction, enrolled: AgentSettings, by: str, replace: bool = False) -> None:
    """With `replace`, in place of the agent of this name, whose present instances stay as they were issued."""
    agent = enrolled.agent
    if replace:
        tx.store.remove_agent(agent.name)
    tx.store.add_agent(agent, enrolled.on_behalf_of, enrolled.credential_seconds)
    fields: Json = {"agent": agent.name, "owner": agent.owner, "groups": list(agent.groups), "by": by}
    tx.add(Draft("agent.enrolled", fields | {"on_behalf_of": enrolled.on_behalf_of}))


def enable_agent(tx: Transaction, name: str, note: str, by: str, more: Json | None = None) -> None:
    """Allow new instances of a disabled agent again; earlier ones stay revoked. `more` are further fields of the
    receipt."""
    tx.store.restore(("agent", name), tx.now)
    tx.add(Draft("agent.enabled", {"agent": name, "note": note, "by": by} | (more or {})))


# Looking up


def all_agents(configured: Mapping[str, AgentSettings], store: Store) -> dict[str, AgentSettings]:
    """The agents of the configuration, and those enrolled from the command line. The configuration takes precedence."""
    enrolled = {
        agent.name: AgentSettings(Agent(agent.name, agent.owner, agent.groups), user, seconds)
        for agent, user, seconds in store.agents()
    }
    return {**enrolled, **configured}


def find_agent(agents: Mapping[str, AgentSettings], name: str | None, otherwise: str = "") -> AgentSettings:
    """The agent of this name; without a name, the only one. Raises: IdentityError.

    `otherwise` is the hint if no name is near; by default how to enrol the agent.
    """
    names = ", ".join(f"`{agent}`" for agent in agents) or "none"
    if name is None and len(agents) != 1:
        raise IdentityError(f"no agent specified; enrolled: {names}", "name one: --agent NAME")
    enrolled = agents.get(name if name is not None else next(iter(agents)))
    if enrolled is None:
        near = nearest(str(name), agents)
        hint = f"did you mean `{near}`?" if near else otherwise or f"mcp-guard agents add {name} --owner NAME"
        raise IdentityError(f"agent `{name}` is not enrolled; enrolled: {names}", hint)
    return enrolled


def hash_launch_code(code: str) -> str:
    """A launch code as stored, so that nobody who reads the ledger can use it."""
    return hashlib.sha256(code.strip().encode()).hexdigest()


def find_instance(store: Store, id: str) -> Instance:
    """Raises: IdentityError."""
    row = store.instance(id)
    if row is None:
        raise IdentityError(f"no instance `{id}`", "mcp-guard instances list")
    return row.instance
