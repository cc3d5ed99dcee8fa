"""`mcp-guard demo`: a demonstration with a client, the guard, and the example CRM behind it.

Makes calls that are allowed, denied and approved, shows and verifies the receipts, tampers with a copy and shows that
verification fails. Exits non-zero at the first unexpected result. Everything happens in one folder.

The guard is a process of its own, as under any client. The other commands run in this process, through the function
that runs them for `mcp-guard`, so that each need not import everything again.
"""

import argparse
import io
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_guard import cli
from mcp_guard.cli.client import connect
from mcp_guard.cli.guard_answers import GuardEnded, UnusableAnswer
from mcp_guard.cli.init_templates import shipped
from mcp_guard.cli.options import CONFIG_VARIABLE, Parser
from mcp_guard.cli.output import is_coloured, print_lines, print_text
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.model import Json
from mcp_guard.core.visible_text import say
from mcp_guard.files import create_file

if TYPE_CHECKING:
    from mcp_guard.cli.guard_client import GuardClient

OK, NEGATIVE = 0, 1
TICKET = "INC-4451"
CONFIG = "mcp-guard.toml"
GRANTED = b'"kind":"approval.granted"'
ALICE = ("--as", "alice", "--key-file", "alice.key", "--passphrase-file", "passphrase")


class Unexpected(Exception):
    """A step of the demonstration had an unexpected result."""


def main(arguments: list[str]) -> int:
    keep = build_parser().parse_args(arguments).keep
    if keep is not None:
        _make(keep)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mcp-guard-demo-") if keep is None else nullcontext(str(keep)) as folder:
        try:
            demo(prepare(Path(folder)))
        except (Unexpected, GuardEnded, UnusableAnswer) as error:
            print_text(say("\nthe demo failed: {}", error), file=sys.stderr)
            return NEGATIVE
    print_lines(["", f"completed as expected in {time.monotonic() - started:.1f} s"])
    if keep is not None:
        print_text(f"all files are in {keep}: cd {shlex.quote(str(keep))} && mcp-guard log")
    return OK


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mcp-guard demo", description="Run a demonstration with an example CRM server.")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all files in this new folder")
    return parser


def _make(folder: Path) -> None:
    """Raises: ConfigError."""
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        hint = "name a new folder, in one that you can write"
        raise ConfigError(f"cannot create `{folder}`: {error.strerror}", hint) from None


def prepare(folder: Path) -> Path:
    """The example's configuration, server and policies, with its state and database, in `folder`."""
    source = shipped()
    shutil.copy(source / "examples" / "crm" / "server.py", folder)
    shutil.copytree(source / "policies" / "crm", folder / "policies")
    text = (source / "examples" / "crm" / "config.toml").read_text()
    text = text.replace('"../../policies/crm"', '"policies"')
    text = text.replace('command = "python"', f"command = {json.dumps(sys.executable)}")
    path = folder / CONFIG
    path.write_text(text)
    return path


def demo(config: Path) -> None:
    heading(f"An MCP client starts `mcp-guard run --ticket {TICKET}` in front of the CRM")
    with connect(config, ["--ticket", TICKET], lambda id, _: approve(config, id)) as client:
        tools = [tool["name"] for tool in client.tools()]
        print_text(f"it sees: {', '.join(tools)}   (delete_deal is not listed, because no policy could allow it)")
        expect("crm__delete_deal" not in tools, "delete_deal should not be listed")
        scenario_a(client)
        enrol(config)
        scenario_b(client, config)
    ledger(config)


def scenario_a(client: "GuardClient") -> None:
    heading("Scenario A: a small, ordinary change runs at once")
    arguments = {"deal_id": "789", "notes": "Agreed on the phone.", "amount": 48500.0, "stage": "Negotiation"}
    text, failed = call(client, arguments)
    expect(not failed and "48,500" in text, "scenario A should run")


def enrol(config: Path) -> None:
    heading("Alice, who may approve, enrols a key")
    create_file(config.parent / "passphrase", b"only Alice knows this")
    show(config, "approvers", "add", "alice", *ALICE[2:])


def scenario_b(client: "GuardClient", config: Path) -> None:
    heading("Scenario B: closing a deal requires approval")
    arguments = {
        "deal_id": "789", "stage": "Closed Won", "amount": 50000.0,
        "guard_reason": "The customer signed this morning.",
    }  # fmt: skip
    text, failed = call(client, arguments)
    expect(not failed and "Closed Won" in text, "scenario B should run once approved")
    [approval] = json.loads(guard(config, "approvals", "list", "--all", "--json"))
    refused = show(config, "approvals", "approve", approval["id"], *ALICE, "--rationale", "Again.", fails=True)
    expect("consumed" in refused, "an approval must not be usable twice")

    heading("Scenario B with a discount: denied, and no approval can lift it")
    text, failed = call(client, {**arguments, "discount_rate": 0.4, "stage": "Closed Lost"})
    expect(failed and "discount_rate" in text, "a protected field should be denied")


def approve(config: Path, id: str) -> None:
    """What an approver does while the agent's call is held."""
    print_lines(["  (the agent's call is held; meanwhile, in another terminal)", ""])
    show(config, "approvals", "show", id)
    show(config, "approvals", "approve", id, *ALICE, "--rationale", "Signed contract seen.")
    print_text("")


def ledger(config: Path) -> None:
    heading("The receipts")
    print_text("$ mcp-guard log --tool crm__update_deal")
    with folder_of(config):
        code = cli.main(["log", "--tool", "crm__update_deal"])  # not captured, because it is a table on a terminal
    expect(code == OK, f"log exited {code}")
    listed = json.loads(guard(config, "log", "--kind", "intent", "--json"))
    intents = [receipt for receipt in listed if receipt.get("purpose") != "facts"]
    expect(len(intents) == 2, f"exactly two calls should have run, not {len(intents)}")
    heading("Who made the change, and who approved it?")
    story = guard(config, "show", intents[-1]["call"]).splitlines()[0]
    print_lines([f"$ mcp-guard show {intents[-1]['call']} | head -n 1", story])
    expect(f"updated deal 789 on behalf of dana due to ticket {TICKET}, approved by Alice" in story, "attribution")

    heading("Verified with the public key alone")
    show(config, "verify")

    heading("One byte of one receipt changed, in a copy")
    tamper(config.parent)
    failed = show(config, "verify", "--ledger", "copy/ledger.sqlite", "--key", "copy/ledger.pub", fails=True)
    expect("NOT VERIFIED: receipt" in failed, "tampering must be found")


def tamper(folder: Path) -> None:
    """A copy of the ledger in which one receipt names another person."""
    shutil.copytree(folder / "state", folder / "copy", ignore=shutil.ignore_patterns("*.key", "upstreams"))
    path = folder / "copy" / "ledger.sqlite"
    body = path.read_bytes()
    expect(body.count(GRANTED) == 1, "there should be one granted approval to tamper with")
    before, granted, after = body.partition(GRANTED)
    path.write_bytes(before + granted + after.replace(b'"name":"Alice"', b'"name":"Alicf"', 1))


def call(client: "GuardClient", arguments: Json) -> tuple[str, bool]:
    """Call update_deal; returns the text of the result and whether it is an error."""
    shown = {name: value for name, value in arguments.items() if name != "guard_reason"}
    print_text(f"agent calls crm__update_deal {json.dumps(shown)}")
    answer = client.call("crm__update_deal", arguments)
    expect("result" in answer, str(answer))
    text, failed = answer["result"]["content"][0]["text"], answer["result"].get("isError", False)
    if not failed:
        deal = json.loads(text)["deal"]
        text = f"deal {deal['deal_id']}: stage {deal['stage']}, amount {deal['amount']:,.0f}, notes {deal['notes']!r}"
    print_text(f"  -> {text}")
    return text, failed


def show(config: Path, *words: str, fails: bool = False) -> str:
    """Run a command of the guard as a user would, and print its output."""
    print_text(f"$ mcp-guard {shlex.join(words)}")
    output = guard(config, *words, fails=fails)
    print_lines(output.splitlines())
    return output


def guard(config: Path, *words: str, fails: bool = False) -> str:
    """What a command of the guard prints in the folder of the configuration."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with folder_of(config), redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            code: object = cli.main(list(words))
        except SystemExit as exited:  # a usage error
            code = exited.code
    output = (stdout.getvalue() + stderr.getvalue()).rstrip()
    expect((code != OK) == fails, f"{words} exited {code}: {output}")
    return output


@contextmanager
def folder_of(config: Path) -> Iterator[None]:
    """Run the body in the folder of this configuration, and with it. Nothing else may run in this process meanwhile."""
    before = os.environ.get(CONFIG_VARIABLE)
    with chdir(config.parent):
        os.environ[CONFIG_VARIABLE] = config.name
        try:
            yield
        finally:
            if before is None:
                del os.environ[CONFIG_VARIABLE]
            else:
                os.environ[CONFIG_VARIABLE] = before


def heading(text: str) -> None:
    print_text(say("\n\033[1m{}\033[0m" if is_coloured() else "\n## {}", text))


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Unexpected(what)
