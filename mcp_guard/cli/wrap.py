"""`mcp-guard wrap`: put the servers of an MCP client behind the guard."""

import argparse
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.cli import tool_effects
from mcp_guard.cli.client_files import (
    FileChange,
    client_files,
    config_option,
    confirm_write,
    diff_lines,
    find_reached,
    find_spot,
    guard_command,
    make_client_parser,
    parse_values,
    repeat_command,
    this_host,
)
from mcp_guard.cli.init_templates import InitAnswers, initial_files, os_user, refuse_to_overwrite
from mcp_guard.cli.output import print_json, print_lines, steps, to_type
from mcp_guard.clients.files import PRIVATE, FileSnapshot, read_file, refuse_if_changed, write_file
from mcp_guard.clients.known import PROJECT, ServerSection, find_client
from mcp_guard.clients.records import WrapRecord, WrapRecords, make_record
from mcp_guard.clients.restrictions import read_restrictions
from mcp_guard.clients.secret_values import secret_arguments
from mcp_guard.clients.wrap import WrapPlan, WrapRequest, make_plan, values_at
from mcp_guard.config import load
from mcp_guard.config.file import check
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.model import Mode
from mcp_guard.secrets import open_keyring, split_entry, store_in_keyring
from mcp_guard.settings import Settings


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    if options.hooks:
        from mcp_guard.cli.client_hooks import install

        return install(options)
    host = this_host()
    spot = find_spot(options, host)
    client_file = read_file(spot.path)
    guard = read_guard_files(options.config.resolve(), options.agent or spot.client.id)
    records = guard.records.list()
    earlier = [record for record in records if (record.path, record.key) == (str(client_file.path), spot.key)]
    wish = WrapRequest(
        config=guard.config,
        command=guard_command(),
        owner=os_user(),
        names=tuple(options.server),
        agent=options.agent or "",
        earlier_agent=next((record.agent for record in reversed(earlier) if record.agent), ""),
        is_sole=len(records) == len(earlier),
        keyring_entry=free_entry if options.move_secrets else None,
        restrictions=read_restrictions(spot, values_at(parse_values(client_file.text, spot.path), spot.key), host),
    )
    plan = make_plan(spot, client_file.text, guard.texts[guard.config], wish, host)
    stale = () if plan.is_guarded else tuple(earlier)
    operation = WrapOperation(options, spot, guard, plan, changes_of(client_file, guard, plan), stale)
    if not plan.wrapped:
        return say_nothing_to_do(operation)
    try:
        check(plan.config_text, guard.config)
    except ConfigError as error:
        raise ConfigError(
            f"`{guard.config}` cannot include these servers: {error.message}",
            "choose servers with --server NAME, or edit the file",
        ) from None
    return carry_out(operation)


def build_parser() -> argparse.ArgumentParser:
    parser = make_client_parser(
        "wrap", "Put the servers of an MCP client behind the guard. Shows the changes and asks before writing."
    )
    parser.add_argument(
        "--server", action="append", default=[], metavar="NAME", help="wrap only this server; may be repeated"
    )
    parser.add_argument(
        "--agent", metavar="AGENT", help="the agent that the client runs as (default: the only one, or a new one)"
    )
    parser.add_argument(
        "--accept-hints", action="store_true", help='start the servers and set effect = "read" where they hint so'
    )
    parser.add_argument("--move-secrets", action="store_true", help="move the servers' secrets to the system keyring")
    return parser


@dataclass(frozen=True, slots=True)
class GuardFiles:
    """The guard's files with their texts, existing or as a new guard would have them, and the wrap records."""

    config: Path
    file: FileSnapshot
    texts: dict[Path, str]
    records: WrapRecords
    settings: Settings

    @property
    def is_new(self) -> bool:
        return self.file.mode is None


@dataclass(frozen=True, slots=True)
class WrapOperation:
    options: argparse.Namespace
    spot: ServerSection
    guard: GuardFiles
    plan: WrapPlan
    changes: list[FileChange]
    stale: tuple[WrapRecord, ...]
    """Earlier wraps of these servers that somebody has undone by hand, because the guard's entry is gone."""

    @property
    def stays_open(self) -> bool:
        """Whether enabled servers that were selected stay unguarded."""
        return any(not left.is_harmless or left.name in self.options.server for left in self.plan.left)


def read_guard_files(config: Path, agent: str) -> GuardFiles:
    """Raises: ConfigError if there is a configuration that does not load."""
    file = read_file(config, missing_ok=True)
    if file.mode is None:
        refuse_to_overwrite(config)
        user = os_user()
        texts = initial_files(config, InitAnswers(agent, user, user))
        settings = check(texts[config], config)
    else:
        texts, settings = {config: file.text}, load(config)
    return GuardFiles(config, file, texts, WrapRecords(settings.state_dir / "clients"), settings)


def free_entry(wanted: str, value: str, used: Collection[str]) -> str:
    """An unused keyring entry for the secret, or one that already holds it. Raises: ConfigError."""
    number, name = 1, wanted
    with open_keyring() as library:
        while name in used or library.get_password(*split_entry(name)) not in (None, value):
            number += 1
            name = f"{wanted}-{number}"
    return name


def changes_of(client_file: FileSnapshot, guard: GuardFiles, plan: WrapPlan) -> list[FileChange]:
    """The guard's files come first, so that a client never names a configuration that does not exist."""
    changes = [FileChange(guard.file, plan.config_text, PRIVATE)]
    changes += [
        FileChange(read_file(path, missing_ok=True), text) for path, text in guard.texts.items() if path != guard.config
    ]
    return [change for change in (*changes, FileChange(client_file, plan.client_text)) if change.is_needed]


def say_nothing_to_do(operation: WrapOperation) -> int:
    """Report that all servers are wrapped, or that the others cannot be."""
    if operation.options.json:
        print_json(summary(operation, written=False), indent=2)
    elif operation.stays_open:
        print_lines([f"no server of {operation.spot.client.title} can be wrapped:", *left_lines(operation)])
    elif operation.plan.is_guarded:
        entry = f"`{operation.plan.entry}` in {operation.spot.path}"
        print_lines([f"already wrapped: {entry} runs the guard of {operation.guard.config}"])
    else:
        print_lines([f"{operation.spot.client.title} has no server to wrap:", *left_lines(operation)])
    return 1 if operation.stays_open else 0


def carry_out(operation: WrapOperation) -> int:
    options = operation.options
    if not options.json:
        print_lines(overview(operation))
        print_lines(diff_lines(operation.changes))
    if options.dry_run:
        return finish(operation, written=False)
    if not confirm_write(options, len(operation.changes), repeat_command("wrap", options, operation.spot.client.id)):
        return 1
    put_in_place(operation)
    code = finish(operation, written=True)
    if options.accept_hints or not (options.yes or options.json):
        tool_effects.propose_after_wrap(operation.guard.config, options.accept_hints, options.json)
    return code


def put_in_place(operation: WrapOperation) -> None:
    """Write secrets, the undo record, the guard's files, then the client's file. Raises: ConfigError."""
    for change in operation.changes:
        refuse_if_changed(change.file)
    *_, client = operation.changes
    record, secrets = make_record(
        operation.spot, client.file.path, client.file.text, operation.plan, operation.guard.config, operation.stale
    )
    for entry, value in operation.plan.moved.items():
        store_in_keyring(entry, value)
    operation.guard.records.add(record, secrets)
    for earlier in operation.stale:
        operation.guard.records.supersede(earlier, record)
    for change in operation.changes:
        change.file.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(change.file, change.after, change.mode)


def finish(operation: WrapOperation, written: bool) -> int:
    if operation.options.json:
        print_json(summary(operation, written), indent=2)
    elif written:
        print_lines(report(operation))
    return 1 if operation.stays_open else 0


def overview(operation: WrapOperation) -> list[str]:
    lines = [f"{operation.spot.client.title}: {operation.spot.path}"]
    for server in operation.plan.wrapped:
        named = (
            "" if server.upstream == server.name else f", as `{server.upstream}`: its tools are {server.upstream}__…"
        )
        there = ", already in the configuration" if server.upstream in operation.plan.reused else ""
        lines.append(f"  {server.name}: behind the guard{named}{there}")
    lines += left_lines(operation)
    if operation.guard.is_new:
        lines.append(f"  {operation.guard.config} will be created in observe mode, as by `mcp-guard init`;")
        lines += other_guards(operation)
    return [*lines, *(f"note: {note}" for note in notes(operation)), ""]


def other_guards(operation: WrapOperation) -> list[str]:
    """What it means to create a guard, and which there are: run by a client, or in a folder above one of the files."""
    config, folders = operation.guard.config, (operation.guard.config.parent, operation.spot.path.parent)
    run_by_clients = [Path(other).resolve() for client in client_files(config) for other in client.others]
    above = [folder / config.name for start in folders for folder in (start, *start.parents)]
    guards = list(dict.fromkeys([*run_by_clients, *(path for path in above if path != config and path.is_file())]))
    if not guards:
        return ["  if you have a guard already, go to its folder first, or name it: --config FILE"]
    wanted = argparse.Namespace(**vars(operation.options) | {"config": guards[0]})
    return [
        f"  there is a guard already: {', '.join(map(str, guards))}",
        "  a second one has policies, approvers and a ledger of its own; to put these servers behind the first:",
        f"    {repeat_command('wrap', wanted, operation.spot.client.id)}",
    ]


def left_lines(operation: WrapOperation) -> list[str]:
    return [f"  {left.name}: unchanged: {left.reason}" for left in operation.plan.left]


def notes(operation: WrapOperation) -> list[str]:
    plan, guard = operation.plan, operation.guard
    lines = [note for server in plan.wrapped for note in server.notes]
    if operation.stale:
        lines.append(
            "the file was wrapped before, and its guard entry is gone since; unwrap restores the file as it is now"
        )
    if hiding := [server.name for server in plan.wrapped if server.secrets and not plan.moved]:
        lines.append(
            f"secrets of {', '.join(hiding)} are stored in plain text in {guard.config} (mode 0600) and in the "
            "backup; --move-secrets stores them in the keyring instead"
        )
    if arguments := [server.name for server in plan.wrapped if any(secret_arguments(server.args))]:
        lines.append(f"the arguments of {', '.join(arguments)} contain a secret, which stays in {guard.config}")
    if operation.spot.scope == PROJECT:
        lines.append(f"{operation.spot.path.name} belongs to the project; its other users cannot start this guard")
    after = check(plan.config_text, guard.config)
    lines += [f"{reach}; {reach.fix}" for reach in find_reached(after, operation.spot)]
    lines += name_notes(operation)
    if plan.others:
        lines.append(f"{operation.spot.client.title} also gets these servers of the guard: {', '.join(plan.others)}")
    lines += other_clients(operation)
    agents = guard.settings.agents
    if operation.options.agent and agents and plan.agent and plan.agent not in agents:
        lines.append(f"`{plan.agent}` is a new agent; the guard has {', '.join(agents)}")
    if guard.is_new:
        lines.append(
            f"{os_user()} owns the agent and is its only approver, and nobody can approve calls of their own agent: "
            "add another approver to the configuration before you switch to enforce mode"
        )
    if guard.settings.mode is Mode.ENFORCE:
        lines.append(
            "the guard is in enforce mode, so tools that no policy permits are not listed; to permit one: "
            + to_type("mcp-guard policy new TOOL")
        )
    return lines


def other_clients(operation: WrapOperation) -> list[str]:
    """Which clients get the new servers although they did not have them, and what restricts that."""
    file, plan = operation.changes[-1].file.path, operation.plan
    added = [server.upstream for server in plan.wrapped if server.upstream not in plan.reused]
    others = [record for record in operation.guard.records.list() if record.path != str(file)]
    titles = ", ".join(dict.fromkeys(find_client(record.client).title for record in others))
    if not (added and titles):
        return []
    every = "every client of a guard has all its servers, unless policies name agents"
    return [f"the servers are also for {titles}, once restarted: {', '.join(added)}; {every}"]


CLIENT_NAME_LIMIT = 64
"""Characters of `mcp__ENTRY__TOOL` that APIs take. Cursor leaves out tools where entry and name have over 60."""


def name_notes(operation: WrapOperation) -> list[str]:
    """How long names of tools are listed, because the client puts the name of the guard's entry before them."""
    entry, limit = operation.plan.entry, operation.guard.settings.tool_name_limit
    fitting = CLIENT_NAME_LIMIT - len(f"mcp__{entry}__")
    lines = [
        f"{operation.spot.client.title} adds `{entry}` to the names of tools, so those of over {min(limit, fitting)} "
        "characters are listed by a short form; policies and receipts have the full names"
    ]
    if fitting < limit:
        lines.append(f"for that, set tool_name_limit = {fitting} under [guard] in {operation.guard.config}")
    return lines


def report(operation: WrapOperation) -> list[str]:
    [record] = operation.guard.records.list(operation.changes[-1].file.path)[-1:]
    at = config_option(operation.guard.config)
    lines = [f"wrote {change.file.path}" for change in operation.changes]
    lines += [f"backup of {operation.spot.path}: {operation.guard.records.backup_path(record)}"]
    aside = map(operation.guard.records.superseded_path, operation.stale)
    lines += [f"copy from before the earlier wrap: {path}" for path in aside if path.exists()]
    lines += [f"stored in the keyring: {entry}" for entry in operation.plan.moved]
    commands = [
        (f"restart {operation.spot.client.title}", "it reads the file when it starts"),
        (f"mcp-guard tools effects{at}", "see which tools count as reads, and which their servers call reads"),
        (f"mcp-guard policy validate{at}", "check the policies against the tools"),
        (f"mcp-guard doctor{at}", "diagnose problems"),
        (repeat_command("unwrap", operation.options, operation.spot.client.id), "restore the original servers"),
    ]
    return [*lines, "next:", *steps(commands)]


def summary(operation: WrapOperation, written: bool) -> dict[str, object]:
    plan = operation.plan
    return {
        "client": operation.spot.client.id,
        "file": str(operation.spot.path),
        "config": str(operation.guard.config),
        "entry": plan.entry,
        "agent": plan.agent,
        "wrapped": [{"server": server.name, "upstream": server.upstream} for server in plan.wrapped],
        "left": [{"server": left.name, "why": left.reason} for left in plan.left],
        "keyring": list(plan.moved),
        "notes": notes(operation),
        "diff": diff_lines(operation.changes),
        "written": written,
    }
