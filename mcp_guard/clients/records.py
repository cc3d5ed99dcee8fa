"""Records of wraps, stored with the guard's state so that they can be undone: a record and a backup of the file.

Both may contain secrets, so only their owner can read them. A secret that moved to the keyring is not in them: the
backup has a placeholder for it, which is replaced when the file is restored.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mcp_guard.clients import jsonc
from mcp_guard.clients.jsonc import apply_edits
from mcp_guard.clients.known import ServerSection
from mcp_guard.clients.toml_sections import TomlBlock
from mcp_guard.clients.wrap import WrapPlan, is_toml, parse_file, servers_at
from mcp_guard.core.errors import ConfigError
from mcp_guard.files import create_file, replace_file

PLACEHOLDER = "in the keyring: "
"""In a backup, followed by the entry that a secret moved to."""


@dataclass(frozen=True, slots=True)
class MovedSecret:
    """A secret in the keyring. Characters `start` to `end` of the backup are its placeholder."""

    entry: str
    start: int
    end: int
    is_ascii: bool


@dataclass(frozen=True, slots=True)
class WrapRecord:
    """One wrap of one file. `before`, `after` and `servers_after` are hashes; `id` is the stem of its file names."""

    id: str
    client: str
    path: str
    key: tuple[str, ...]
    entry: str
    wrapped: tuple[str, ...]
    before: str
    after: str
    servers_after: str
    config: str
    upstreams: tuple[str, ...]
    blocks: tuple[TomlBlock, ...]
    holes: tuple[MovedSecret, ...] = ()
    """Their placeholders in the backup."""
    agent: str = ""
    """The agent of the guard's entry; empty if the entry was there already."""


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_record(
    section: ServerSection, real: Path, before: str, plan: WrapPlan, config: Path, stale: Sequence[WrapRecord] = ()
) -> tuple[WrapRecord, str]:
    """The record, and the backup: the text `before` with placeholders for the secrets that move.

    It takes over the sections of `stale`, the records that it supersedes.

    Raises: ConfigError.
    """
    backup, holes = _replace_secrets(before, section, plan)
    after = servers_at(parse_file(plan.client_text, str(section.path), section.key), section.key)
    assert after is not None
    return WrapRecord(
        id=f"{section.client.id}-{time.time_ns() // 1000}",
        client=section.client.id,
        path=str(real),
        key=section.key,
        entry=plan.entry,
        wrapped=tuple(server.name for server in plan.wrapped),
        before=fingerprint(before),
        after=fingerprint(plan.client_text),
        servers_after=fingerprint(plan.client_text[after.start : after.end]),
        config=str(config),
        upstreams=tuple(server.upstream for server in plan.wrapped),
        blocks=tuple(dict.fromkeys([*(block for record in stale for block in record.blocks), *plan.blocks])),
        holes=holes,
        agent=plan.agent,
    ), backup


def _replace_secrets(text: str, section: ServerSection, plan: WrapPlan) -> tuple[str, tuple[MovedSecret, ...]]:
    """Raises: ConfigError for a secret that could not be restored exactly as it is written."""
    by_text = {value: entry for entry, value in plan.moved.items()}
    if by_text and is_toml(str(section.path)):
        raise ConfigError(f"secrets in `{section.path}` cannot be moved", "omit --move-secrets")
    servers = servers_at(parse_file(text, str(section.path), section.key), section.key)
    assert servers is not None
    names = {server.name for server in plan.wrapped}
    secrets = [
        node
        for member in servers.members
        if member.key in names
        for _, node in jsonc.strings(member.node)
        if node.value in by_text
    ]
    holes: list[MovedSecret] = []
    edits = []
    shift = 0
    for node in secrets:
        value, literal = str(node.value), text[node.start : node.end]
        is_ascii = literal != json.dumps(value, ensure_ascii=False)
        if is_ascii and literal != json.dumps(value):
            problem = f"a secret in `{section.path}` has unusual escapes, which could not be restored"
            raise ConfigError(problem, "write it without escapes, or omit --move-secrets")
        placeholder = json.dumps(f"{PLACEHOLDER}{by_text[value]}", ensure_ascii=False)
        holes.append(MovedSecret(by_text[value], node.start + shift, node.start + shift + len(placeholder), is_ascii))
        edits.append((node.start, node.end, placeholder))
        shift += len(placeholder) - len(literal)
    return apply_edits(text, edits), tuple(holes)


def restore_secrets(backup: str, record: WrapRecord, secret: Callable[[str], str]) -> str:
    """The original text: the backup with its secrets. Raises: ConfigError if it is not what it was."""
    edits = [
        (hole.start, hole.end, json.dumps(secret(hole.entry), ensure_ascii=hole.is_ascii)) for hole in record.holes
    ]
    text = apply_edits(backup, edits)
    if fingerprint(text) != record.before:
        raise ConfigError(
            f"the backup of `{record.path}` has changed", "restore the backup, or its secrets in the keyring"
        )
    return text


@dataclass(frozen=True, slots=True)
class WrapRecords:
    """The records in a folder below the state folder."""

    folder: Path

    def list(self, path: Path | None = None) -> Sequence[WrapRecord]:
        """All records, or those of one file, oldest first. Raises: ConfigError."""
        records = [self._read(file) for file in sorted(self.folder.glob("*.json"), key=_age)]
        return [record for record in records if path is None or record.path == str(path)]

    def backup_path(self, record: WrapRecord) -> Path:
        return self.folder / f"{record.id}.before"

    def read_backup(self, record: WrapRecord) -> str:
        """The text of the file before the wrap, with placeholders for moved secrets. Raises: ConfigError."""
        try:
            return self.backup_path(record).read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cannot read `{self.backup_path(record)}`: {error}", "edit the client's file by hand"
            ) from None

    def add(self, record: WrapRecord, backup: str) -> None:
        """Store the backup first: a record without one could not be undone. Raises: ConfigError."""
        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            create_file(self.backup_path(record), backup.encode())
            create_file(self.folder / f"{record.id}.json", json.dumps(asdict(record), indent=2).encode())
        except OSError as error:
            raise ConfigError(
                f"cannot write a backup into `{self.folder}`: {error.strerror}", "nothing was written"
            ) from None

    def replace(self, record: WrapRecord) -> None:
        replace_file(self.folder / f"{record.id}.json", json.dumps(asdict(record), indent=2).encode())

    def remove(self, record: WrapRecord) -> None:
        (self.folder / f"{record.id}.json").unlink()
        self.backup_path(record).unlink()

    def superseded_path(self, record: WrapRecord) -> Path:
        return self.folder / f"{record.id}.before.superseded"

    def supersede(self, record: WrapRecord, newer: WrapRecord) -> None:
        """Set the record and its backup aside, or remove them if the backup of `newer` is the same.

        Raises: ConfigError.
        """
        stored = self.folder / f"{record.id}.json"
        try:
            if (record.before, record.holes) == (newer.before, newer.holes):
                self.remove(record)
                return
            stored.rename(stored.with_name(f"{stored.name}.superseded"))
            self.backup_path(record).rename(self.superseded_path(record))
        except OSError as error:
            raise ConfigError(f"cannot rename the files of `{stored}`: {error.strerror}", "run wrap again") from None

    def superseded_copies(self) -> Sequence[Path]:
        return sorted(self.folder.glob("*.before.superseded"))

    def _read(self, path: Path) -> WrapRecord:
        try:
            members: Mapping[str, object] = json.loads(path.read_bytes())
            record = WrapRecord(**members)  # type: ignore[arg-type]
            return replace(
                record,
                key=tuple(record.key),
                wrapped=tuple(record.wrapped),
                upstreams=tuple(record.upstreams),
                blocks=tuple(TomlBlock(**block) for block in record.blocks),  # type: ignore[arg-type]
                holes=tuple(MovedSecret(**hole) for hole in record.holes),  # type: ignore[arg-type]
            )
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"`{path}` is not a wrap record: {error}", "move the file out of the folder") from None


def _age(path: Path) -> int:
    return int(path.stem.rpartition("-")[2]) if path.stem.rpartition("-")[2].isdecimal() else 0
