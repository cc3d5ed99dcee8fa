"""The files of MCP clients, for `wrap`, `unwrap` and `doctor`: find them, show changes without secrets, confirm."""

import argparse
import difflib
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.cli.approvers import key_folder
from mcp_guard.cli.options import add_json, make_parser, one_of
from mcp_guard.cli.output import print_text
from mcp_guard.cli.prompts import confirm
from mcp_guard.clients import jsonc
from mcp_guard.clients.files import FileSnapshot, read_file
from mcp_guard.clients.known import (
    CLIENTS,
    LOCAL,
    PROJECT,
    USER,
    Host,
    ServerSection,
    find_client,
    section_of_file,
    server_sections,
)
from mcp_guard.clients.restrictions import read_restrictions
from mcp_guard.clients.secret_values import hidden_parts, mask, secrets_of
from mcp_guard.clients.server_entries import GuardEntry, guard_entry, is_switched_off
from mcp_guard.clients.toml_sections import read_toml
from mcp_guard.clients.wrap import values_at
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.visible_text import join, say, visible_line
from mcp_guard.diagnostics.reach import OwnFile, Reach, find_reaching, own_files
from mcp_guard.diagnostics.snapshot import ClientFile
from mcp_guard.own_command import OWN_COMMAND
from mcp_guard.settings import Settings


def this_host() -> Host:
    return Host(sys.platform, Path(os.path.expanduser("~")), os.environ, Path.cwd())


def make_client_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that `wrap` and `unwrap` share."""
    parser = make_parser(command, description)
    parser.add_argument("client", nargs="?", metavar="CLIENT", help=", ".join(client.id for client in CLIENTS))
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="the client's configuration file, if not in its usual place"
    )
    parser.add_argument(
        "--scope",
        type=one_of((USER, PROJECT, LOCAL)),
        choices=(USER, PROJECT, LOCAL),
        help="which servers: the user's, or those of the project in this folder",
    )
    parser.add_argument(
        "--hooks", action="store_true", help="the hooks of a coding agent instead of MCP servers, for its own tools"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the changes without writing them")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    add_json(parser)
    return parser


@dataclass(frozen=True, slots=True)
class ClientServers:
    """The enabled servers of a client, and its entries that run a guard."""

    spot: ServerSection
    servers: tuple[str, ...] = ()
    guards: tuple[GuardEntry, ...] = ()
    failure: str = ""


def read_servers(spot: ServerSection) -> ClientServers | None:
    """The servers in this section, or None if there are none."""
    if not spot.path.is_file():
        return None
    try:
        servers = values_at(parse_values(read_file(spot.path).text, spot.path), spot.key)
    except ConfigError as error:
        return ClientServers(spot, failure=error.message)
    if not servers:
        return None
    entries = {name: guard_entry(value) for name, value in servers.items()}
    try:
        refusals = read_restrictions(spot, servers, this_host()).refusals
    except ConfigError as error:
        return ClientServers(spot, failure=error.message)
    off = {name for name, refusal in refusals.items() if refusal.is_harmless}
    off |= {name for name, value in servers.items() if entries[name] or is_switched_off(value)}
    return ClientServers(
        spot, tuple(name for name in servers if name not in off), tuple(entry for entry in entries.values() if entry)
    )


def parse_values(text: str, path: Path) -> object:
    """A client's file as plain values. Raises: ConfigError."""
    if path.suffix != ".toml":
        return jsonc.parse_value(text, str(path))
    try:
        return read_toml(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}", "fix the file") from None


def client_files(config: Path) -> Iterator[ClientFile]:
    """Every set of servers on this machine, and how it relates to the guard of this configuration."""
    host = this_host()
    for spot in (spot for client in CLIENTS for spot in server_sections(client, host)):
        servers = read_servers(spot)
        if servers is None:
            continue
        named = [spot.folder / guard.config for guard in servers.guards if guard.config]
        commands = [guard.command for guard in servers.guards if shutil.which(guard.command) is None]
        yield ClientFile(
            title=spot.client.title,
            words=client_words(spot, host) + config_option(config),
            path=str(spot.path),
            is_guarded=any(path.resolve() == config for path in named),
            no_program=next(iter(commands), ""),
            no_config=next((str(path) for path in named if not path.is_file()), ""),
            others=tuple(str(path) for path in named if path.is_file() and path.resolve() != config),
            unguarded=servers.servers,
            failure=servers.failure,
        )


def find_reached(settings: Settings, *wrapped: ServerSection) -> tuple[Reach, ...]:
    """Upstreams that were given a folder with the guard's own files; `wrapped` are clients that will be guarded."""
    return find_reaching(settings, find_own(settings, *wrapped))


def find_own(settings: Settings, *wrapped: ServerSection) -> tuple[OwnFile, ...]:
    """The guard's files; `wrapped` are clients that will be guarded."""
    keys = key_folder()
    others = [OwnFile(keys, "keys of approvers")] if keys.exists() else []
    guarded = {Path(client.path): client.title for client in client_files(settings.path) if client.is_guarded}
    guarded |= {spot.path: spot.client.title for spot in wrapped}
    others += [OwnFile(path, f"the file of {title} that starts the guard") for path, title in guarded.items()]
    return own_files(settings, others)


def client_words(spot: ServerSection, host: Host) -> str:
    """The client's arguments in a command, with the scope or the file if it also has servers elsewhere."""
    others = [other for other in server_sections(spot.client, host) if read_servers(other) and other != spot]
    if any(other.scope == spot.scope for other in others):
        return f"{spot.client.id} --file {shlex.quote(str(spot.path))}"
    return spot.client.id + (f" --scope {spot.scope}" if others else "")


def find_spot(options: argparse.Namespace, host: Host) -> ServerSection:
    """The named set of servers, or the only one on this machine. Raises: ConfigError."""
    client = find_client(options.client) if options.client else None
    if options.file:
        return section_of_file(Path(os.path.abspath(options.file.expanduser())), client, host)
    sections = [
        spot for each_client in ([client] if client else CLIENTS) for spot in server_sections(each_client, host)
    ]
    sections = [spot for spot in sections if options.scope in (None, spot.scope)]
    in_use = [spot for spot in sections if read_servers(spot)]
    if len(in_use) == 1:
        return in_use[0]
    if not in_use:
        what = f"{client.title} has no servers" if client else "no client with servers found"
        searched = _listing(sections)
        raise ConfigError(say("{}; searched:\n{}", what, searched), "name the client's file: --file FILE")
    raise ConfigError(
        say("several files define servers:\n{}", _listing(in_use)),
        f"choose one, for example: mcp-guard wrap {client_words(in_use[0], host)}",
    )


def _listing(sections: list[ServerSection]) -> str:
    return join("\n", (visible_line(f"  {spot.client.id:<15} {spot.scope:<8} {spot.path}") for spot in sections))


def repeat_command(command: str, options: argparse.Namespace, default_client: str = "") -> str:
    """The command line to run the same command again; `default_client` is used if none was named."""
    words = ["mcp-guard", command]
    words += [client] if (client := options.client or default_client) else []
    words += ["--file", str(options.file)] if options.file else []
    words += ["--scope", options.scope] if options.scope else []
    words += ["--hooks"] if options.hooks else []
    if command == "wrap":
        words += [word for name in options.server for word in ("--server", name)]
        words += ["--agent", options.agent] if options.agent else []
        words += ["--move-secrets"] if options.move_secrets else []
        words += ["--accept-hints"] if options.accept_hints else []
    return shlex.join(words) + config_option(options.config)


def config_option(config: Path) -> str:
    """The --config option for a command that the user should run in this folder."""
    if config.resolve() == Path("mcp-guard.toml").resolve():
        return ""
    return f" --config {shlex.quote(str(config.resolve()))}"


def guard_command() -> tuple[str, ...]:
    """The command by which a client starts this `mcp-guard`: a full path, because the client may have another PATH."""
    beside = Path(sys.executable).with_name("mcp-guard.exe" if sys.platform == "win32" else "mcp-guard")
    return (str(beside),) if beside.exists() else OWN_COMMAND


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file as it was read, and its new text."""

    file: FileSnapshot
    after: str
    mode: int | None = None

    @property
    def is_needed(self) -> bool:
        return self.file.text != self.after


def secrets_in(text: str) -> Iterator[str]:
    """The values in JSON or TOML text that look like secrets."""
    return secrets_of(_parsed(text))


def _parsed(text: str) -> object:
    """JSON or TOML text as plain values; None if it is neither."""
    with suppress(ConfigError):
        return jsonc.parse_value(text)
    with suppress(ValueError, RecursionError):
        return read_toml(text)
    return None


def _written(text: str) -> object:
    """JSON text with every member, objects as pairs, or what else text is parsed to."""
    try:
        return jsonc.every_value(jsonc.parse(text))
    except ConfigError:
        return _parsed(text)


def diff_lines(changes: Iterable[FileChange]) -> list[str]:
    """The unified differences of all files, with whatever may be a secret masked."""
    changes = list(changes)
    texts = (text for change in changes for text in (change.file.text, change.after))
    parts = [part for text in texts for part in hidden_parts(_written(text))]
    lines: list[str] = []
    for change in changes:
        before, after = (mask(text, parts).expandtabs(4).splitlines() for text in (change.file.text, change.after))
        name = str(change.file.path)
        lines += difflib.unified_diff(
            before, after, name if change.file.mode is not None else "(new)", name, lineterm=""
        )
    return lines


def confirm_write(options: argparse.Namespace, count: int, command: str) -> bool:
    """Whether `--yes` was given or the user confirms. Raises: ConfigError if there is no terminal to ask on."""
    if options.yes:
        return True
    if options.json or not sys.stdin.isatty():
        raise ConfigError("nothing was written: cannot ask for confirmation without a terminal", f"{command} --yes")
    if confirm(f"write {'this file' if count == 1 else f'these {count} files'}?"):
        return True
    print_text("nothing was written")
    return False
