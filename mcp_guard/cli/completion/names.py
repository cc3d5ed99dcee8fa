"""Current names for the completion of arguments. This runs at each Tab, so it imports nothing slow."""

import time
import tomllib
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from mcp_guard.core.errors import ConfigError, reason_of

STATE = "state"
"""The default of `guard.state_dir`."""
SECTIONS = ("agents", "approvers", "notifiers", "routes", "upstreams", "witnesses")
IN_LEDGER = ("agents", "approvals", "instances", "tools")
KINDS = tuple(dict.fromkeys((*SECTIONS, *IN_LEDGER, "clients")))


def names(kind: str, config: Path) -> list[str]:
    """The names of this kind in the configuration and the ledger. Raises: ConfigError, LedgerError."""
    if kind == "clients":
        from mcp_guard.clients.known import CLIENTS

        return [client.id for client in CLIENTS]
    try:
        data = tomllib.loads(config.read_text().removeprefix("\ufeff"))
    except (OSError, ValueError) as error:
        hint = "name the configuration: --config FILE"
        raise ConfigError(f"cannot read `{config}`: {reason_of(error)}", hint) from None
    names = set(data.get(kind, {})) if kind in SECTIONS else set()
    ledger = config.resolve().parent / data.get("guard", {}).get("state_dir", STATE) / "ledger.sqlite"
    if kind in IN_LEDGER and ledger.exists():
        names.update(_in_ledger(kind, ledger))
    return sorted(names)


def _in_ledger(kind: str, ledger: Path) -> Iterable[str]:
    from mcp_guard.core.approval import ApprovalState
    from mcp_guard.core.names import listed_name
    from mcp_guard.storage.contract import Store
    from mcp_guard.storage.engines import find_engine

    kinds: dict[str, Callable[[Store], Iterable[str]]] = {
        "agents": lambda store: [agent.name for agent, _, _ in store.agents()],
        "approvals": lambda store: [
            approval.id for approval in store.approvals((ApprovalState.REQUESTED, ApprovalState.APPROVED))
        ],
        "instances": lambda store: [row.instance.id for row in store.instances(time.time_ns() // 1000)],
        "tools": lambda store: [listed_name(upstream, tool) for upstream, tool, _, _ in store.pin_states()],
    }
    with closing(find_engine(ledger).open_unchecked()) as store, store.reading():
        return kinds[kind](store)
