"""What several sections of the configuration are made of."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Model(BaseModel):
    """Strict and frozen: an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Secret(Model):
    """Where a secret is; never the secret itself."""

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def is_one_place(self) -> "Secret":
        if (self.env is None) == (self.file is None):
            raise ValueError('say where the secret is: { env = "NAME" } or { file = "PATH" }')
        return self

    def place(self) -> dict[str, Any]:
        return self.model_dump()


Url = Annotated[str, Field(pattern=r"^https?://[^/]+")]
