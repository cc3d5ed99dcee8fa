"""What was wrapped, kept beside the guard's state to be undone: of each wrap, a record and the file as it was.

Both may hold secrets, so they are their owner's alone. A secret that went to the keyring is not in them: the place
where it stood is remembered, and filled again from the keyring.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mcp_guard.clients import jsonc
from mcp_guard.clients.jsonc import apply_edits
from mcp_guard.clients.known import ServerSection
from mcp_guard.clients.toml_sections import TomlBlock
from mcp_guard.clients.wrap import WrapPlan, servers_at
from mcp_guard.core.errors import ConfigError
from mcp_guard.files import create_file, replace_file


@dataclass(frozen=True, slots=True)
class MovedSecret:
    """Where a secret stood: characters `start` to `end` of the text that is kept are its place holder."""

    entry: str
    start: int
    end: int
    is_ascii: bool


@dataclass(frozen=True, slots=True)
class WrapRecord:
    """One wrap of one file. `before`, `after` and `servers_after` are hashes; `id` names its files."""

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


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_record(spot: ServerSection, real: Path, before: str, plan: WrapPlan, config: Path) -> tuple[WrapRecord, str]:
    """The record, and the text to keep: `before` with holes for the secrets that move."""
    kept, holes = _replace_secrets(before, spot, plan)
    after = servers_at(jsonc.parse(plan.client_text), spot.key)
    assert after is not None
    return WrapRecord(
        id=f"{spot.client.id}-{time.time_ns() // 1000}",
        client=spot.client.id,
        path=str(real),
        key=spot.key,
        entry=plan.entry,
        wrapped=tuple(server.name for server in plan.wrapped),
        before=fingerprint(before),
        after=fingerprint(plan.client_text),
        servers_after=fingerprint(plan.client_text[after.start : after.end]),
        config=str(config),
        upstreams=tuple(server.upstream for server in plan.wrapped),
        blocks=plan.blocks,
        holes=holes,
    ), kept


def _replace_secrets(text: str, spot: ServerSection, plan: WrapPlan) -> tuple[str, tuple[MovedSecret, ...]]:
    """Raises: ConfigError for a secret that could not be put back as it was spelt."""
    by_text = {value: entry for entry, value in plan.moved.items()}
    servers = servers_at(jsonc.parse(text), spot.key)
    assert servers is not None
    names = {server.name for server in plan.wrapped}
    found = [
        node
        for member in servers.members
        if member.key in names
        for _, node in jsonc.strings(member.node)
        if node.value in by_text
    ]
    holes: list[MovedSecret] = []
    cuts = []
    shift = 0
    for node in found:
        value, literal = str(node.value), text[node.start : node.end]
        is_ascii = literal != json.dumps(value, ensure_ascii=False)
        if is_ascii and literal != json.dumps(value):
            what = f"a secret in `{spot.path}` is spelt with unusual escapes, and could not be put back as it was"
            raise ConfigError(what, "spell it plainly, or leave out --move-secrets")
        instead = json.dumps(f"in the keyring: {by_text[value]}", ensure_ascii=False)
        holes.append(MovedSecret(by_text[value], node.start + shift, node.start + shift + len(instead), is_ascii))
        cuts.append((node.start, node.end, instead))
        shift += len(instead) - len(literal)
    return apply_edits(text, cuts), tuple(holes)


def restore_secrets(kept: str, record: WrapRecord, secret: Callable[[str], str]) -> str:
    """The text as it was, with the secrets from the keyring. Raises: ConfigError if it is not what it was."""
    cuts = [(hole.start, hole.end, json.dumps(secret(hole.entry), ensure_ascii=hole.is_ascii)) for hole in record.holes]
    text = apply_edits(kept, cuts)
    if fingerprint(text) != record.before:
        raise ConfigError(f"what is kept of `{record.path}` is not what it was", "a secret or the copy was changed")
    return text


@dataclass(frozen=True, slots=True)
class WrapRecords:
    """The records below a state folder."""

    folder: Path

    def standing(self, path: Path | None = None) -> list[WrapRecord]:
        """All, or those of one file, the oldest first. Raises: ConfigError."""
        found = [self._read(each) for each in sorted(self.folder.glob("*.json"), key=_age)]
        return [record for record in found if path is None or record.path == str(path)]

    def backup(self, record: WrapRecord) -> Path:
        return self.folder / f"{record.id}.before"

    def kept(self, record: WrapRecord) -> str:
        """Raises: ConfigError."""
        try:
            return self.backup(record).read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cannot read `{self.backup(record)}`: {error}", "edit the client's file by hand"
            ) from None

    def add(self, record: WrapRecord, kept: str) -> None:
        """The text first: a record without it would promise too much. Raises: ConfigError."""
        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            create_file(self.backup(record), kept.encode())
            create_file(self.folder / f"{record.id}.json", json.dumps(asdict(record), indent=2).encode())
        except OSError as error:
            raise ConfigError(
                f"cannot keep a copy in `{self.folder}`: {error.strerror}", "nothing was written"
            ) from None

    def change(self, record: WrapRecord) -> None:
        replace_file(self.folder / f"{record.id}.json", json.dumps(asdict(record), indent=2).encode())

    def remove(self, record: WrapRecord) -> None:
        (self.folder / f"{record.id}.json").unlink()
        self.backup(record).unlink()

    def _read(self, path: Path) -> WrapRecord:
        try:
            said: Mapping[str, object] = json.loads(path.read_bytes())
            record = WrapRecord(**said)  # type: ignore[arg-type]
            return replace(
                record,
                key=tuple(record.key),
                wrapped=tuple(record.wrapped),
                upstreams=tuple(record.upstreams),
                blocks=tuple(TomlBlock(**each) for each in record.blocks),  # type: ignore[arg-type]
                holes=tuple(MovedSecret(**each) for each in record.holes),  # type: ignore[arg-type]
            )
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"`{path}` is no record of a wrapped file: {error}", "move it away") from None


def _age(path: Path) -> int:
    return int(path.stem.rpartition("-")[2]) if path.stem.rpartition("-")[2].isdecimal() else 0
