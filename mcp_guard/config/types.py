"""What several sections of the configuration are made of."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mcp_guard.settings import SecretReference


class Model(BaseModel):
    """Strict and frozen: an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def texts(value: object) -> Iterator[str]:
    """Every text in a value of TOML, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from texts(each)


class SecretConfig(Model):
    """Where a secret is; never the secret itself. Each key is a source of `upstream/secrets.py`."""

    env: str | None = None
    file: Path | None = None
    keyring: Annotated[str, Field(pattern=r"^[^/]+/.+$")] | None = None
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def is_one_place(self) -> "SecretConfig":
        if len(self.model_fields_set) != 1:
            raise ValueError(
                'say where the secret is: { env = "NAME" }, { file = "PATH" }, { keyring = "SERVICE/NAME" } or '
                '{ command = ["PROGRAM", …] }'
            )
        return self

    def reference(self) -> SecretReference:
        [source] = self.model_fields_set
        if self.command:
            return SecretReference(source, self.command[0], self.command)
        return SecretReference(source, str(getattr(self, source)))


Url = Annotated[str, Field(pattern=r"^https?://[^/]+")]
