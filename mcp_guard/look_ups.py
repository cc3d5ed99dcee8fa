"""The guard's own readings of the present state: to decide a call, and to confirm what it has changed.

They are calls of a read tool by the same path as any other (`Guard.look_up`); what is read and compared is prepared
here.
"""

import asyncio
from collections.abc import Awaitable, Callable

from mcp_guard.core.confirmation import compare, unread
from mcp_guard.core.describe import DescriptionRules, describe, facts_arguments
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Call, Confirmation, Effect, Execution, Facts, Finding, ToolCallRequest
from mcp_guard.core.names import listed_name
from mcp_guard.core.redaction import for_look_up
from mcp_guard.ports import Ledger, Upstreams

CONFIRM_SECONDS = 10.0
"""How long the outcome of a call waits for the reading that confirms it, at most."""
MAX_OTHERS = 100
TOO_MANY = "there are too many receipts since to say which other calls were under way"


def prepare_look_up(rules: DescriptionRules, upstreams: Upstreams, call: Call) -> Call | str:
    """The call that reads the facts of another one. Returns the reason as a string if they cannot be read."""
    assert call.tool is not None
    assert call.tool.rule.facts is not None
    rule = call.tool.rule.facts
    name = listed_name(call.tool.server, rule.tool)
    tool = upstreams.find_tool(name)
    if tool is None or tool.effect is not Effect.READ:
        return f"the present state cannot be read: `{name}` is not listed, or not configured with effect = read"
    arguments = facts_arguments(rule, call.arguments)
    if isinstance(arguments, str):
        return arguments
    read = describe(rules, call.id, call.instance, ToolCallRequest(name, arguments), tool)
    return read._replace(purpose="facts", redaction=for_look_up(call.redaction, rule, read.redaction))


async def confirm(
    look_up: Callable[[Call], Awaitable[Facts | str]],
    ledger: Ledger,
    upstreams: Upstreams,
    call: Call,
    execution: Execution,
    seconds: float | None,
) -> Confirmation:
    """Read the facts again and compare, within `seconds` (None: as long as the client waits, which is not known).

    Raises nothing but CancelledError: a failed reading costs only itself.
    """
    limit = CONFIRM_SECONDS if seconds is None else min(CONFIRM_SECONDS, seconds)
    if limit <= 0:
        return unread("its client does not wait for the resource to be read again")
    try:
        async with asyncio.timeout(limit):
            after = await look_up(call)
        if isinstance(after, str):
            return unread(after)
        confirmation = compare(call, after, execution.status)
        if confirmation.finding is not Finding.DIFFERS or call.facts is None:
            return confirmation
        others = await ledger.calls_meanwhile(call, call.facts.read)
    except TimeoutError:
        return unread(f"the resource could not be read again within {limit:g} s")
    except LedgerError as error:
        return unread(f"the resource could not be read again: {error.message}")
    if others is None:
        return confirmation._replace(because=TOO_MANY)
    reads = {tool.listed_as for tool in upstreams.tools() if tool.effect is Effect.READ}
    writes = [seq for seq, tool in others if tool not in reads]
    because = f"{len(writes) - MAX_OTHERS} earlier calls were under way, too" if len(writes) > MAX_OTHERS else ""
    return confirmation._replace(others=tuple(writes[-MAX_OTHERS:]), because=because)
