"""`mcp-guard agents`: manage the programs that may call tools, in addition to those in the configuration."""

import argparse
import re
import sys
from collections.abc import Iterable

from mcp_guard.cli.enrolled_agents import revoked_text
from mcp_guard.cli.group_names import find_unnamed_groups
from mcp_guard.cli.options import Parser, account, add_config, add_json, lifetime
from mcp_guard.cli.output import plain, print_json, print_result, print_table, print_text, to_type
from mcp_guard.config import load
from mcp_guard.core.errors import IdentityError
from mcp_guard.core.model import Agent
from mcp_guard.diagnostics.snapshot import UnnamedGroup
from mcp_guard.ledger import registry
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.ledger.writer import Writer
from mcp_guard.server_log import note
from mcp_guard.settings import AgentSettings, Settings
from mcp_guard.start_notes import note_if_new

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    writer = open_writer(ledger_settings(settings), CLOCK)
    if options.verb != "add":
        note_if_new(writer, settings, note)
    verbs = {"add": add, "list": show, "disable": disable, "enable": enable}
    return verbs[options.verb](writer, settings, options)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="mcp-guard agents", description="Manage the programs that may call tools.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    adding = verbs.add_parser("add", help="enrol an agent, like [agents.NAME] in the configuration")
    listing = verbs.add_parser("list", help="list all agents and how many live instances each has")
    disabling = verbs.add_parser("disable", help="revoke all instances of an agent and refuse new ones")
    enabling = verbs.add_parser("enable", help="allow new instances of a disabled agent again")
    for verb in (adding, disabling, enabling):
        verb.add_argument("agent", metavar="AGENT")
    adding.add_argument(
        "--owner", required=True, metavar="USER", help="the person responsible for it, who can never approve its calls"
    )
    adding.add_argument(
        "--group", action="append", default=[], metavar="GROUP", help="a group that policies can name; may be repeated"
    )
    adding.add_argument(
        "--replace", action="store_true", help="correct an enrolled agent: all that is given here replaces what it had"
    )
    adding.add_argument("--on-behalf-of", metavar="USER", help="the user it acts for, if that is always the same")
    adding.add_argument(
        "--ttl",
        type=lifetime,
        default=8 * 3600,
        metavar="TIME",
        help="lifetime of a credential: 900, 30m, 1h (default: 8h)",
    )
    for verb in (disabling, enabling):
        verb.add_argument("--why", required=True, metavar="TEXT", help="the reason; recorded in the ledger")
    for verb in (adding, listing, disabling, enabling):
        add_config(verb)
        add_json(verb)
    return parser


def add(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    if not re.fullmatch(NAME, options.agent):
        raise IdentityError(f"`{options.agent}` is not a valid agent name", "use letters, digits, `.`, `-` and `_`")
    if options.agent in settings.agents:
        what = f"agent `{options.agent}` is already enrolled, in the configuration"
        raise IdentityError(what, f"edit [agents.{options.agent}] in {settings.path}")
    agents = registry.all_agents(settings.agents, writer.store)
    if options.replace:
        registry.find_agent(agents, options.agent)
    elif options.agent in agents:
        hint = "to correct its owner, groups, user or TTL, repeat the command with all of them and --replace"
        raise IdentityError(f"agent `{options.agent}` is already enrolled", hint)
    agent = Agent(options.agent, options.owner, tuple(options.group))
    enrolled = AgentSettings(agent, options.on_behalf_of, options.ttl)
    writer.run(lambda tx: registry.enrol_agent(tx, enrolled, account(), options.replace))
    done = "replaced" if options.replace else "enrolled"
    print_result(options.json, {"agent": agent.name}, f"{done} `{agent.name}`, owned by {agent.owner}")
    if options.replace and any(row.instance.agent.name == agent.name for row in writer.store.instances(writer.now())):
        issue = to_type(f"mcp-guard instances issue --agent {agent.name}")
        revoke = to_type(f"mcp-guard instances revoke --agent {agent.name} --allow-new --why TEXT")
        what = "its live instances, and their tokens, stay as they were issued; what changed is in new ones"
        print_text(f"note: {what}: {issue}; to end the old ones: {revoke}", file=sys.stderr)
    note_unnamed(find_unnamed_groups(settings, [agent]))
    return 0


def note_unnamed(groups: Iterable[UnnamedGroup]) -> None:
    for group in groups:
        print_text(f"note: {group}", file=sys.stderr)


def show(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    store, now = writer.store, writer.now()
    instances = [row.instance for row in store.instances(now)]
    alive = [item.agent.name for item in instances if registry.why_barred(store, item, now) is None]
    disabled = {name for (kind, name), until in store.revocations() if kind == "agent" and until > now}
    agents = registry.all_agents(settings.agents, store)
    unnamed = find_unnamed_groups(settings, (enrolled.agent for _, enrolled in sorted(agents.items())))
    rows = [
        {
            "agent": name,
            "owner": enrolled.agent.owner,
            "groups": list(enrolled.agent.groups),
            "unnamed_groups": [group.group for group in unnamed if group.agent == name],
            "on_behalf_of": enrolled.on_behalf_of,
            "enrolled": "config" if name in settings.agents else "ledger",
            "state": "disabled" if name in disabled else "enabled",
            "alive": alive.count(name),
        }
        for name, enrolled in sorted(agents.items())
    ]
    if options.json:
        print_json(rows, indent=2)
        return 0
    headings = ("agent", "owner", "groups", "on_behalf_of", "enrolled", "state", "alive")
    print_table(headings, ([plain(row[heading]) for heading in headings] for row in rows))
    note_unnamed(unnamed)
    return 0


def disable(writer: Writer, settings: Settings, options: argparse.Namespace) -> int:
    registry.find_agent(registry.all_agents(settings.agents, writer.store), options.agent, "mcp-guard agents list")
    key, until, now = ("agent", options.agent), registry.FOREVER, writer.now()
    was_disabled = any(revoked == key and end > now for revoked, end in writer.store.revocations())
    revoked, withdrawn = writer.run(lambda tx: registry.revoke_with_requests(tx, key, options.why, account(), until))
    ids = [instance.id for instance in revoked]
    done = f"`{options.agent}` was disabled already" if was_disabled else f"disabled `{options.agent}`"
    message = f"{done}; {revoked_text(ids, withdrawn)}"
    print_result(options.json, {"agent": options.agent, "instances": ids, "withdrawn": withdrawn}, message)
    return 0


def enable(writer: Writer, _: Settings, options: argparse.Namespace) -> int:
    now = writer.now()
    if not any(key == ("agent", options.agent) and until > now for key, until in writer.store.revocations()):
        raise IdentityError(f"agent `{options.agent}` is not disabled", "mcp-guard agents list")
    writer.run(lambda tx: registry.enable_agent(tx, options.agent, options.why, account()))
    print_result(options.json, {"agent": options.agent}, f"enabled `{options.agent}` for new instances")
    return 0
