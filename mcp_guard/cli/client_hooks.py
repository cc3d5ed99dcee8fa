"""`wrap --hooks` and `unwrap --hooks`: the hooks of a coding agent, by which the guard decides on its own tools."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from mcp_guard.cli.client_files import (
    FileChange,
    config_option,
    confirm_write,
    diff_lines,
    repeat_command,
    this_host,
)
from mcp_guard.cli.init_templates import (
    PACK_FILE,
    PACK_FOLDER,
    PACK_GROUP,
    PACK_ROUTE,
    POLICIES,
    InitAnswers,
    initial_files,
    os_user,
    refuse_to_overwrite,
    shipped,
)
from mcp_guard.cli.output import print_json, print_lines, steps
from mcp_guard.clients.files import PRIVATE, FileSnapshot, read_file, refuse_if_changed, write_file
from mcp_guard.clients.hooks import (
    AGENTS,
    HookedAgent,
    HookRecord,
    HookRecords,
    find_agent,
    find_switch,
    hook_command,
    hook_file,
    read_hooks,
    read_settings,
    unhooked,
    with_hooks,
)
from mcp_guard.clients.records import fingerprint
from mcp_guard.clients.toml_sections import read_toml
from mcp_guard.config import load
from mcp_guard.config.file import check
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.host_tools import HOST
from mcp_guard.core.model import Mode
from mcp_guard.core.names import SEPARATOR
from mcp_guard.diagnostics.snapshot import HookedFile, HooksState
from mcp_guard.policy.files import policy_files, read_policy_file
from mcp_guard.settings import Settings

FOLDER = "hooks"
"""Of the records, in the state folder."""
NAMES_HOST = re.compile(rf'"(server:{HOST}"|{HOST}{SEPARATOR})')
"""In policies that are about what coding agents do with their own tools."""


def install(options: argparse.Namespace) -> int:
    """Raises: ConfigError."""
    agent, config = find_agent(options.client), options.config.resolve()
    texts = _guard_texts(config, options.agent, agent)
    settings = check(texts[config], config)
    assert settings.hooks is not None
    file = read_file(_path(options, agent), missing_ok=True)
    after = with_hooks(file.text, agent, hook_command(agent, settings.hooks.socket.path), str(file.path))
    changes = [FileChange(read_file(path, missing_ok=True), text, PRIVATE) for path, text in texts.items()]
    changes = [change for change in (*changes, FileChange(file, after)) if change.is_needed]
    at = config_option(config)
    notes = [
        f"{agent.title} asks the guard before each of its own tools; without a running guard they are denied",
        f"calls are those of agent `{settings.hooks.agent}`",
    ]
    if not any(path.name == PACK_FILE for path in texts) and not (settings.policies / PACK_FILE).exists():
        notes.append(
            f"policies to start with: copy {shipped() / POLICIES / PACK_FOLDER / PACK_FILE} into {settings.policies}, "
            f'and give the agent groups = ["{PACK_GROUP}"], and the configuration a route `{PACK_ROUTE}`'
        )
    if settings.mode is Mode.OBSERVE:
        notes.append('the guard observes: it blocks nothing until you set mode = "enforce" under [guard]')
    if agent.id == "codex":
        notes.append("Codex asks you once to trust the hook; until then it does not run it")
    if not changes:
        return _finish(options, agent, file.path, notes, changes, written=False)
    if not options.json:
        print_lines([f"{agent.title}: {file.path}", *(f"note: {note}" for note in notes), "", *diff_lines(changes)])
    if options.dry_run:
        return _finish(options, agent, file.path, notes, changes, written=False)
    if not confirm_write(options, len(changes), repeat_command("wrap", options, agent.id)):
        return 1
    _put_in_place(changes, HookRecords(settings.state_dir / FOLDER), agent, file, after)
    commands = [
        (f"mcp-guard serve{at}", "answer the hooks; keep it running"),
        (f"restart {agent.title}", "it reads its hooks when it starts"),
        (f"mcp-guard doctor{at}", "diagnose problems"),
        (f"mcp-guard unwrap {agent.id} --hooks{at}", "remove the hooks"),
    ]
    return _finish(options, agent, file.path, notes, changes, written=True, more=["next:", *steps(commands)])


def _guard_texts(config: Path, agent_name: str | None, agent: HookedAgent) -> dict[Path, str]:
    """The guard's files with a section [hooks]: as they are, or those of a new guard. Raises: ConfigError."""
    file = read_file(config, missing_ok=True)
    if file.mode is None:
        refuse_to_overwrite(config, decides_own_tools=True)
        user = os_user()
        texts = initial_files(config, InitAnswers(agent_name or agent.id, user, user, decides_own_tools=True))
        agents = [agent_name or agent.id]
    else:
        texts, agents = {config: file.text}, list(load(config).agents)
    if "hooks" not in read_toml(texts[config]):
        name = agent_name or (agents[0] if len(agents) == 1 else "")
        if not name:
            names = ", ".join(agents) or "none"
            raise ConfigError(f"which agent runs the coding agent? [agents] has: {names}", "name it: --agent AGENT")
        texts[config] += f'\n[hooks]\nagent = "{name}"\n'
        if name not in agents:
            texts[config] += f'\n[agents.{name}]\nowner = "{os_user()}"\n'
    return texts


def _path(options: argparse.Namespace, agent: HookedAgent) -> Path:
    given: Path | None = options.file
    return given.expanduser().absolute() if given else hook_file(agent, this_host(), options.scope)


def _put_in_place(
    changes: list[FileChange], records: HookRecords, agent: HookedAgent, file: FileSnapshot, after: str
) -> None:
    """The record first: hooks without one could not be removed byte for byte. Raises: ConfigError."""
    for change in changes:
        refuse_if_changed(change.file)
    earlier = records.find(file.path)
    before = earlier.before if earlier and fingerprint(file.text) == earlier.after else file.text
    if file.mode is None:
        before = None
    records.add(HookRecord(agent.id, str(file.path), before, fingerprint(after)))
    for change in changes:
        change.file.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(change.file, change.after, change.mode if change.file.mode is None else None)


def remove(options: argparse.Namespace) -> int:
    """Raises: ConfigError."""
    agent, settings = find_agent(options.client), load(options.config)
    records, path = HookRecords(settings.state_dir / FOLDER), _path(options, agent).resolve()
    file = read_file(path, missing_ok=True)
    record = records.find(path)
    after = unhooked(file.text, record, path) if file.mode is not None else ""
    changes = [change for change in (FileChange(file, after or ""),) if change.is_needed]
    if not changes:
        notes = ["nothing to remove: the file has no hook of a guard"]
        return _finish(options, agent, path, notes, changes, written=False)
    if not options.json:
        print_lines([f"{agent.title}: {path}", "", *diff_lines(changes)])
    if options.dry_run:
        return _finish(options, agent, path, [], changes, written=False)
    if not confirm_write(options, 1, repeat_command("unwrap", options, agent.id)):
        return 1
    refuse_if_changed(file)
    if after is None:
        file.path.unlink()
    else:
        write_file(file, after)
    if record is not None:
        records.remove(record)
    more = [f"[hooks] remains in {settings.path}", f"next: restart {agent.title}"]
    return _finish(options, agent, path, [], changes, written=True, more=more)


def _finish(
    options: argparse.Namespace,
    agent: HookedAgent,
    path: Path,
    notes: list[str],
    changes: list[FileChange],
    *,
    written: bool,
    more: list[str] | None = None,
) -> int:
    if options.json:
        report = {"client": agent.id, "file": str(path), "notes": notes, "diff": diff_lines(changes)}
        print_json(report | {"written": written}, indent=2)
    elif written:
        print_lines([*(f"wrote {change.file.path}" for change in changes), *(more or [])])
    elif not changes:
        print_lines([f"{agent.title}: {path}: nothing to change", *(f"note: {note}" for note in notes)])
    return 0


def inspect_hooks(settings: Settings) -> HooksState:
    """How the hooks of the coding agents on this machine relate to this guard, for `doctor`."""
    from mcp_guard.downstream.unix import is_answered

    path = str(settings.hooks.socket.path) if settings.hooks else ""
    try:
        policies = "".join(read_policy_file(file).decode() for file in policy_files(settings.policies))
    except (OSError, UnicodeDecodeError):  # another check says so
        policies = ""
    return HooksState(
        path,
        is_answered=bool(path) and is_answered(path),
        has_policies=bool(NAMES_HOST.search(policies)),
        pack=str(shipped() / POLICIES / PACK_FOLDER / PACK_FILE),
        files=tuple(_hooked_files(settings)),
    )


def _hooked_files(settings: Settings) -> list[HookedFile]:
    host = this_host()
    wrapped = {Path(record.path): record for record in HookRecords(settings.state_dir / FOLDER).list()}
    results: list[HookedFile] = []
    for agent in AGENTS:
        for path in dict.fromkeys(host.locate(location).resolve() for location in agent.locations):
            results += [_state(settings, agent, path, path in wrapped)] if path.is_file() or path in wrapped else []
        if any(file.has_hooks and file.id == agent.id for file in results):
            results += _switched_off(agent, [host.locate(location) for location in agent.more_files])
    return results


def _switched_off(agent: HookedAgent, paths: list[Path]) -> Iterator[HookedFile]:
    """The files without hooks that switch all of them off, or cannot be read."""
    for path in (path for path in paths if path.is_file()):
        off = failure = ""
        try:
            off = find_switch(read_settings(read_file(path).text, path), agent)
        except ConfigError as error:
            failure = str(error)
        if off or failure:
            yield HookedFile(agent.title, agent.id, str(path), is_wrapped=False, off=off, failure=failure)


def _state(settings: Settings, agent: HookedAgent, path: Path, is_wrapped: bool) -> HookedFile:
    text = read_file(path, missing_ok=True).text
    try:
        state = read_hooks(text, agent, path)
    except (ConfigError, ValueError) as error:
        return HookedFile(agent.title, agent.id, str(path), is_wrapped=is_wrapped, failure=str(error))
    ours = str(settings.hooks.socket.path) if settings.hooks else ""
    return HookedFile(
        agent.title,
        agent.id,
        str(path),
        is_wrapped=is_wrapped,
        missing=state.missing,
        changed=state.changed,
        off=state.off,
        has_hooks=bool(state.sockets),
        others=tuple(socket for socket in state.sockets if socket != ours),
        gone=tuple(program for program in state.programs if not Path(program).exists()),
    )
