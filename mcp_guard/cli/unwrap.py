"""`mcp-guard unwrap`: restore an MCP client's original servers before `wrap`."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mcp_guard.cli.client_files import (
    FileChange,
    confirm_write,
    diff_lines,
    find_spot,
    make_client_parser,
    read_servers,
    repeat_command,
    secrets_in,
    this_host,
)
from mcp_guard.cli.output import print_json, print_lines, print_result
from mcp_guard.clients.files import FileSnapshot, read_file, refuse_if_changed, write_file
from mcp_guard.clients.known import find_client, server_sections
from mcp_guard.clients.records import PLACEHOLDER, WrapRecord, WrapRecords, restore_secrets
from mcp_guard.clients.secret_values import secrets_of
from mcp_guard.clients.toml_sections import TomlBlock, read_toml, remove_blocks
from mcp_guard.clients.unwrap import NotUndone, undo
from mcp_guard.config import load
from mcp_guard.config.file import check
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.visible_text import join, say, visible_line
from mcp_guard.secrets import from_keyring, remove_from_keyring
from mcp_guard.settings import SecretReference


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    if options.hooks:
        from mcp_guard.cli.client_hooks import remove

        return remove(options)
    config = find_config(options)
    settings = load(config)
    records = WrapRecords(settings.state_dir / "clients")
    if records.folder.is_dir() and not records.list():
        done = "nothing to unwrap: everything that this guard had wrapped is already restored"
        print_result(options.json, {"restored": [], "notes": [done], "diff": [], "written": False}, done)
        return 0
    operation = plan_unwrap(options, records, read_file(config), settings.policies)
    if not options.json:
        print_lines([f"{find_client(operation.wraps[0].client).title}: {operation.wraps[0].path}"])
        print_lines(
            [*(f"  {name}: restored" for name in operation.names), *(f"note: {note}" for note in operation.notes), ""]
        )
        print_lines(diff_lines(operation.changes))
    if options.dry_run:
        return finish(operation, written=False)
    if not confirm_write(options, len(operation.changes), repeat_command("unwrap", options, operation.wraps[0].client)):
        return 1
    put_in_place(operation)
    return finish(operation, written=True)


def build_parser() -> argparse.ArgumentParser:
    return make_client_parser(
        "unwrap", "Restore an MCP client's original servers. Shows the changes and asks before writing."
    )


def find_config(options: argparse.Namespace) -> Path:
    """The given configuration or the one in this folder; else the one that the client's guard entry names."""
    config: Path = options.config.resolve()
    if not config.exists() and (options.client or options.file):
        servers = read_servers(find_spot(options, this_host()))
        named = [servers.spot.folder / guard.config for guard in servers.guards if guard.config] if servers else []
        return named[0].resolve() if named else config
    return config


@dataclass(frozen=True, slots=True)
class UnwrapOperation:
    """`wraps` are the records to remove; `heirs` are other records, which take over sections they also use."""

    options: argparse.Namespace
    records: WrapRecords
    wraps: tuple[WrapRecord, ...]
    heirs: tuple[WrapRecord, ...]
    changes: list[FileChange]
    entries: tuple[str, ...]
    """Entries of the keyring that are no longer used."""
    notes: tuple[str, ...]
    leftovers: tuple[str, ...]
    """Where secrets remain after the undo, and what to do about it."""

    @property
    def names(self) -> list[str]:
        return [name for record in self.wraps for name in record.wrapped]


def choose_records(
    options: argparse.Namespace, records: WrapRecords
) -> tuple[tuple[WrapRecord, ...], list[WrapRecord]]:
    """The wraps of one client's servers, and all others. Raises: ConfigError."""
    standing = records.list()
    chosen = {(record.path, record.key): record for record in standing if is_meant(record, options)}
    if not chosen:
        what = f"this guard has wrapped no servers{f' of {options.client}' if options.client else ''}"
        raise ConfigError(
            f"{what}: no record in `{records.folder}`",
            "name the guard's configuration: --config FILE; mcp-guard doctor finds it",
        )
    if len(chosen) > 1:
        listing = join("\n", (visible_line(f"  {record.client:<15} {record.path}") for record in chosen.values()))
        raise ConfigError(
            say("several files are wrapped:\n{}", listing), "choose one: mcp-guard unwrap CLIENT, or --file FILE"
        )
    [place] = chosen
    wraps = tuple(record for record in standing if (record.path, record.key) == place)
    return wraps, [record for record in standing if record not in wraps]


def is_meant(record: WrapRecord, options: argparse.Namespace) -> bool:
    if options.client and record.client != find_client(options.client).id:
        return False
    if options.file and record.path != str(options.file.expanduser().resolve()):
        return False
    if options.scope is None:
        return True
    every = server_sections(find_client(record.client), this_host())
    return any(
        (str(spot.path.resolve()), spot.key, spot.scope) == (record.path, record.key, options.scope) for spot in every
    )


def plan_unwrap(
    options: argparse.Namespace, records: WrapRecords, config: FileSnapshot, policies: Path
) -> UnwrapOperation:
    """Raises: ConfigError."""
    wraps, others = choose_records(options, records)
    client = read_file(Path(wraps[0].path), missing_ok=True)
    if client.mode is None:
        hint = f"restore the backup from before the wrap: {records.backup_path(wraps[0])}"
        raise ConfigError(f"`{client.path}` no longer exists", hint)
    known: dict[str, str] = {}

    def secret(entry: str) -> str:
        known.setdefault(entry, from_keyring(SecretReference("keyring", entry)))
        return known[entry]

    text = client.text
    for record in reversed(wraps):
        try:
            text = undo(text, record, restore_secrets(records.read_backup(record), record, secret))
        except NotUndone as why:
            hint = f"edit it by hand; the backup from before the wrap is {records.backup_path(record)}"
            raise ConfigError(f"`{client.path}` cannot be unwrapped: {why}", hint) from None
    heirs, going = share(wraps, others)
    after, notes = without_sections(config, going, policies)
    needed = {hole.entry for record in others for hole in record.holes}
    copies = {path: path.read_text(errors="replace") for path in records.superseded_copies()}
    entries = [entry for entry in known if f'"{entry}"' not in after and entry not in needed]
    in_copies = [entry for entry in entries if any(f'"{PLACEHOLDER}{entry}"' in copy for copy in copies.values())]
    return UnwrapOperation(
        options=options,
        records=records,
        wraps=wraps,
        heirs=heirs,
        changes=[change for change in (FileChange(client, text), FileChange(config, after)) if change.is_needed],
        entries=tuple(entry for entry in entries if entry not in in_copies),
        leftovers=(
            *secrets_in_sections(config.path, after, wraps),
            *secrets_in_copies(config.path, copies),
            *map(kept_for_copy, in_copies),
        ),
        notes=notes,
    )


def share(wraps: Sequence[WrapRecord], others: Sequence[WrapRecord]) -> tuple[tuple[WrapRecord, ...], list[TomlBlock]]:
    """Give shared sections to the other records that use them. Returns those records, and the unused sections."""
    heirs: dict[str, WrapRecord] = {}
    going = []
    for block in [block for record in wraps for block in record.blocks]:
        users = [record for record in others if block.mentions in [f"{name}__" for name in record.upstreams]]
        if users:
            heir = heirs.get(users[0].id, users[0])
            heirs[heir.id] = replace(heir, blocks=(*heir.blocks, block))
        else:
            going.append(block)
    return tuple(heirs.values()), going


def without_sections(config: FileSnapshot, blocks: Sequence[TomlBlock], policies: Path) -> tuple[str, tuple[str, ...]]:
    """The guard's configuration without these sections, and notes on those that must stay."""
    cedar = sorted(policies.rglob("*.cedar")) if policies.is_dir() else [policies]
    after, kept = remove_blocks(config.text, blocks, {str(path): path.read_text() for path in cedar if path.is_file()})
    notes = tuple(f"{section(block)} stays in {config.path}: {why}" for block, why in kept)
    try:
        check(after, config.path)
    except ConfigError as error:
        return config.text, (
            f"{config.path} is unchanged, because it would not load without these sections: {error.message}",
        )
    return after, notes


def secrets_in_sections(config: Path, text: str, wraps: Sequence[WrapRecord]) -> Iterator[str]:
    """Which sections of the unwrapped servers keep secrets."""
    upstreams = read_toml(text).get("upstreams", {})
    for name in dict.fromkeys(name for record in wraps for name in record.upstreams if name in upstreams):
        for key in ("env", "headers", "args"):
            if any(secrets_of({key: upstreams[name].get(key)})):
                yield (
                    f"secrets remain in `{key}` of [upstreams.{name}] in {config}: remove the section if nothing else "
                    "needs it"
                )


def secrets_in_copies(config: Path, superseded: Mapping[Path, str]) -> Iterator[str]:
    """Which copies have secrets: of the configuration, and of client files from before wraps that were superseded."""
    for path, text in superseded.items():
        if any(not secret.startswith(PLACEHOLDER) for secret in secrets_in(text)):
            yield f"secrets remain in {path}: delete it when you no longer need it"
    copy = config.with_name(f"{config.name}.bak")
    if copy.is_file() and any(secrets_in(copy.read_text(errors="replace"))):
        yield f"secrets remain in {copy}: delete it"


def kept_for_copy(entry: str) -> str:
    return f"the keyring keeps {entry}, which a copy of an earlier wrap needs: mcp-guard secrets remove {entry}"


def section(block: TomlBlock) -> str:
    return next(line for line in block.text.splitlines() if line.startswith("["))


def put_in_place(operation: UnwrapOperation) -> None:
    """Write the client's file first; until then the guard still serves. Raises: ConfigError."""
    for change in operation.changes:
        refuse_if_changed(change.file)
    for change in operation.changes:
        write_file(change.file, change.after)
    for heir in operation.heirs:
        operation.records.replace(heir)
    for record in operation.wraps:
        operation.records.remove(record)
    for entry in operation.entries:
        remove_from_keyring(entry)


def finish(operation: UnwrapOperation, written: bool) -> int:
    if operation.options.json:
        report = {
            "client": operation.wraps[0].client,
            "file": operation.wraps[0].path,
            "restored": operation.names,
            "notes": [*operation.notes, *operation.leftovers],
            "diff": diff_lines(operation.changes),
            "written": written,
        }
        print_json(report, indent=2)
    elif written:
        lines = [f"wrote {change.file.path}" for change in operation.changes]
        lines += [f"removed from the keyring: {entry}" for entry in operation.entries]
        lines += operation.leftovers
        lines += [f"the guard's configuration, policies and ledger remain in {Path(operation.wraps[0].config).parent}"]
        print_lines([*lines, f"next: restart {find_client(operation.wraps[0].client).title}"])
    return 0
