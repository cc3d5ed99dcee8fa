"""The sections `[ledger]` and `[witnesses.NAME]`: the ledger's signer, and the witnesses of its checkpoints."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mcp_guard.config.types import ConfigModel, SecretConfig, Url
from mcp_guard.core.tlog import note
from mcp_guard.settings import LEASE_SECONDS, NetworkSettings, SecretReference, SignerSettings, WitnessSettings

WitnessName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
GitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]


class SignerCommandConfig(ConfigModel):
    """A program that signs. `public` is the C2SP verifier line of its key."""

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    public: str
    seconds: Annotated[float, Field(gt=0, le=60)] = 5

    @field_validator("public")
    @classmethod
    def is_verifier(cls, public: str) -> str:
        note.parse_verifier(public)
        return public


SignerConfig = Literal["file", "keyring"] | SignerCommandConfig


class LedgerConfig(ConfigModel):
    database: SecretConfig | Path | None = None
    lease_seconds: Annotated[float, Field(ge=5, le=300)] = LEASE_SECONDS
    signer: SignerConfig = "file"
    next_signer: SignerConfig | None = None
    keep_payload_days: Annotated[int, Field(ge=0)] = 0
    shared_secret: SecretConfig | None = None

    @field_validator("database", mode="before")
    @classmethod
    def is_no_url(cls, database: object) -> object:
        """A URL would be taken for a path, and its password would be in the configuration."""
        if isinstance(database, str) and "://" in database:
            raise ValueError('the URL of a database is read from a variable: { env = "DATABASE_URL" }, or { file = … }')
        return database

    def settings(self, base_dir: Path) -> dict[str, Any]:
        """The members of `Settings` that this section gives."""
        return {
            "database": self.place(base_dir),
            "lease_seconds": self.lease_seconds,
            "signers": self.signers(base_dir),
            "keep_payload_days": self.keep_payload_days,
            "shared_secret": self.shared_secret.reference() if self.shared_secret else None,
        }

    def place(self, base_dir: Path) -> SecretReference | Path | None:
        """The reference to the URL of a database, or a file."""
        if isinstance(self.database, SecretConfig):
            return self.database.reference()
        return base_dir / self.database if self.database else None

    def signers(self, base_dir: Path) -> tuple[SignerSettings, ...]:
        """The signer in use, then the signer to rotate to, if there is one."""
        configured = [self.signer] if self.next_signer is None else [self.signer, self.next_signer]
        return tuple(_signer(signer, base_dir) for signer in configured)


def _signer(signer: SignerConfig, base_dir: Path) -> SignerSettings:
    if isinstance(signer, str):
        return SignerSettings(signer, base_dir=base_dir)
    return SignerSettings("command", signer.command, signer.public, signer.seconds, base_dir)


class WitnessBase(ConfigModel):
    """Keys of all kinds of witnesses: how often a running guard sends a checkpoint."""

    kind: str
    every_seconds: Annotated[float, Field(ge=1)] | None = None
    every_receipts: Annotated[int, Field(ge=1)] | None = None

    def settings(self, base_dir: Path, network: NetworkSettings) -> WitnessSettings:
        own = {name: value for name, value in self if name not in WitnessBase.model_fields}
        options = {name: value.reference() if isinstance(value, SecretConfig) else value for name, value in own.items()}
        return WitnessSettings(self.kind, options, base_dir, self.every_seconds, self.every_receipts, network)


class FileWitnessConfig(WitnessBase):
    kind: Literal["file"]
    path: Path
    append: bool = True


class GitWitnessConfig(WitnessBase):
    kind: Literal["git"]
    remote: Annotated[str, Field(pattern=r"^[^-]")]
    branch: GitName = "main"
    path: GitName = "checkpoint"


class WebhookWitnessConfig(WitnessBase):
    kind: Literal["webhook"]
    url: Url
    secret: SecretConfig


class TimestampWitnessConfig(WitnessBase):
    kind: Literal["rfc3161"]
    url: Url
    roots: Path


class CosignatureWitnessConfig(WitnessBase):
    kind: Literal["cosignature"]
    url: Url
    key: str

    @field_validator("key")
    @classmethod
    def is_verifier(cls, key: str) -> str:
        note.parse_verifier(key, note.COSIGNATURE)
        return key


WitnessConfig = Annotated[
    FileWitnessConfig | GitWitnessConfig | WebhookWitnessConfig | TimestampWitnessConfig | CosignatureWitnessConfig,
    Field(discriminator="kind"),
]
