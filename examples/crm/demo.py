"""The guard at work, for people: a real MCP client, the real guard over stdio, the example CRM behind it.

    make demo

Runs two scenarios, shows the receipts, verifies them, tampers with a copy and shows that the verification fails.
Exits non-zero at the first thing that is not as it should be. Everything happens in a temporary folder.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from mcp_guard.cli.terminal import is_coloured

HERE = Path(__file__).resolve().parent
POLICIES = HERE.parent.parent / "policies" / "crm"
GUARD = [sys.executable, "-m", "mcp_guard.cli"]
TICKET = "INC-4451"


class Unexpected(Exception):
    """The demo did not go as it should."""


def heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if is_coloured() else f"\n## {text}")


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Unexpected(what)


def prepare(folder: Path) -> Path:
    """The example's configuration, with its state and database in `folder`."""
    shutil.copy(HERE / "server.py", folder)
    text = (HERE / "config.toml").read_text()
    text = text.replace('"../../policies/crm"', json.dumps(str(POLICIES)))
    text = text.replace('command = "python"', f"command = {json.dumps(sys.executable)}")
    path = folder / "config.toml"
    path.write_text(text)
    return path


def guard(config: Path, *words: str, fails: bool = False) -> str:
    """Run a command of the guard in a second process, as a person would in a second terminal."""
    print(f"$ mcp-guard {' '.join(words)}")
    command = [*GUARD, *words[:2], "--config", str(config), *words[2:]]
    if words[0] not in ("approvals", "approvers", "policy"):
        command = [*GUARD, words[0], "--config", str(config), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=config.parent)
    expect((done.returncode != 0) == fails, f"{words} exited {done.returncode}: {done.stdout}{done.stderr}")
    return (done.stdout + done.stderr).rstrip()


async def call(session: ClientSession, arguments: dict[str, Any]) -> tuple[str, bool]:
    """Call update_deal; returns the text of the result and whether it is an error."""
    shown = {name: value for name, value in arguments.items() if name != "guard_reason"}
    print(f"agent calls crm__update_deal {json.dumps(shown)}")
    result = await session.call_tool("crm__update_deal", arguments)
    text = result.content[0].text  # type: ignore[union-attr]
    if not result.is_error:
        deal = json.loads(text)["deal"]
        text = f"deal {deal['deal_id']}: stage {deal['stage']}, amount {deal['amount']:,.0f}, notes {deal['notes']!r}"
    print(f"  -> {text}")
    return text, bool(result.is_error)


async def wait_for_request(config: Path) -> str:
    """The id of the request that the agent's call is waiting for."""
    command = [*GUARD, "approvals", "list", "--config", str(config), "--json"]
    while True:
        listed = await anyio.run_process(command)
        for approval in json.loads(listed.stdout):
            if approval["state"] == "requested":
                return str(approval["id"])


def enrol_alice(config: Path) -> tuple[str, ...]:
    """Make Alice's key, as she would once; returns the options by which she then signs."""
    folder = config.parent
    (folder / "passphrase").write_text("only Alice knows this")
    key = ("--key-file", "alice.key", "--passphrase-file", "passphrase")
    print(guard(config, "approvers", "add", "alice", *key))
    print()
    return ("--as", "alice", *key)


async def scenario_a(session: ClientSession) -> None:
    heading("Scenario A: a small, ordinary change runs at once")
    arguments = {"deal_id": "789", "notes": "Agreed on the phone.", "amount": 48500.0, "stage": "Negotiation"}
    text, failed = await call(session, arguments)
    expect(not failed and "48,500" in text, "scenario A should run")


async def scenario_b(session: ClientSession, config: Path) -> None:
    heading("Scenario B: closing a deal waits for a person")
    alice = enrol_alice(config)
    arguments = {
        "deal_id": "789", "stage": "Closed Won", "amount": 50000.0,
        "guard_reason": "The customer signed this morning.",
    }  # fmt: skip
    outcome: list[tuple[str, bool]] = []

    async def agent() -> None:
        outcome.append(await call(session, arguments))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent)
        with anyio.fail_after(20):
            id = await wait_for_request(config)
        print("  (the agent's call is held; meanwhile, in another terminal)\n")
        print(guard(config, "approvals", "show", id))
        print(guard(config, "approvals", "approve", id, *alice, "--rationale", "Signed contract seen."))
        print()
    expect(not outcome[0][1] and "Closed Won" in outcome[0][0], "scenario B should run once approved")
    refused = guard(config, "approvals", "approve", id, *alice, "--rationale", "Again.", fails=True)
    print(refused)
    expect("consumed" in refused, "an approval must not be usable twice")

    heading("Scenario B with a discount: denied, and no approval can lift it")
    text, failed = await call(session, {**arguments, "discount_rate": 0.4, "stage": "Closed Lost"})
    expect(failed and "discount_rate" in text, "a protected field should be denied")


def ledger(config: Path) -> None:
    heading("The receipts")
    print(guard(config, "log", "--last", "40"))
    command = [*GUARD, "log", "--config", str(config), "--kind", "intent", "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    intents = [receipt for receipt in json.loads(listed.stdout) if receipt.get("purpose") != "facts"]
    expect(len(intents) == 2, f"exactly two calls should have run, not {len(intents)}")
    heading("Who did that, and who let them?")
    story = guard(config, "show", intents[-1]["call"])
    print(story.split("\n\n")[0])
    expect(f"updated deal 789 on behalf of dana due to ticket {TICKET}, approved by Alice" in story, "attribution")

    heading("Verified with the public key alone")
    print(guard(config, "verify"))

    heading("One byte of one receipt changed, in a copy")
    copy = tamper(config.parent / "state")
    failed = guard(config, "verify", "--ledger", str(copy), "--key", str(copy.parent / "ledger.pub"), fails=True)
    print(failed)
    expect("NOT VERIFIED: receipt" in failed, "tampering must be found")


def tamper(state: Path) -> Path:
    """A copy of the ledger in which one receipt names another person."""
    copy = state.parent / "copy"
    copy.mkdir()
    shutil.copy(state / "ledger.pub", copy)
    with sqlite3.connect(state / "ledger.sqlite") as original, sqlite3.connect(copy / "ledger.sqlite") as other:
        original.backup(other)
        changed = other.execute(
            "UPDATE receipt SET body = CAST(replace(body, 'Alice', 'Alicf') AS BLOB) WHERE kind = 'approval.granted'"
        )
        expect(changed.rowcount == 1, "there should be one granted approval to tamper with")
    return copy / "ledger.sqlite"


async def demo(folder: Path) -> None:
    config = prepare(folder)
    arguments = ["-m", "mcp_guard.cli", "run", "--config", str(config), "--ticket", TICKET]
    server = StdioServerParameters(command=sys.executable, args=arguments)
    heading(f"An MCP client starts `mcp-guard run --ticket {TICKET}` in front of the CRM")
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        tools = [tool.name for tool in (await session.list_tools()).tools]
        print(f"it sees: {', '.join(tools)}   (delete_deal is not offered: no policy could allow it)")
        expect("crm__delete_deal" not in tools, "delete_deal should not be listed")
        await scenario_a(session)
        await scenario_b(session, config)
    ledger(config)


def main() -> int:
    started = time.monotonic()
    failures: list[BaseException] = []
    with tempfile.TemporaryDirectory(prefix="mcp-guard-demo-") as folder:
        try:
            anyio.run(demo, Path(folder))
        except* Unexpected as errors:
            failures += errors.exceptions
    if failures:
        print(f"\nthe demo failed: {failures[0]}", file=sys.stderr)
        return 1
    print(f"\nall as it should be, in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
