"""Types that several sections of the configuration share."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mcp_guard.settings import SecretReference


class ConfigModel(BaseModel):
    """The base of all sections. It is frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def texts(value: object) -> Iterator[str]:
    """All strings in a TOML value, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for element in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from texts(element)


class SecretConfig(ConfigModel):
    """A reference to a secret, never the secret itself. Each key is one of the `SOURCES` in `secrets.py`."""

    env: str | None = None
    file: Path | None = None
    keyring: Annotated[str, Field(pattern=r"^[^/]+/.+$")] | None = None
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def has_one_source(self) -> "SecretConfig":
        if len(self.model_fields_set) != 1:
            raise ValueError(
                'give one source of the secret: { env = "NAME" }, { file = "PATH" }, { keyring = "SERVICE/NAME" } or '
                '{ command = ["PROGRAM", …] }'
            )
        return self

    def reference(self) -> SecretReference:
        [source] = self.model_fields_set
        if self.command:
            return SecretReference(source, self.command[0], self.command)
        return SecretReference(source, str(getattr(self, source)))


def _lower_scheme(value: object) -> object:
    return re.sub("(?i)^https?(?=://)", lambda scheme: scheme[0].lower(), value) if isinstance(value, str) else value


Url = Annotated[str, BeforeValidator(_lower_scheme), Field(pattern=r"^https?://[^/]+")]
