"""The section `[upstreams]`: MCP servers behind the guard, started by it or reached over HTTP."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mcp_guard.config_parts import Model, Secret, Url
from mcp_guard.settings import Server

HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"


class UpstreamConfig(Model):
    """A server on stdio (`command`), or over HTTP (`url`)."""

    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[Annotated[str, Field(pattern=r"^[^=\x00]+$")], str | Secret] = {}
    cwd: Path | None = None
    url: Url | None = None
    transport: Literal["http", "sse"] = "http"
    headers: dict[Annotated[str, Field(pattern=HEADER)], str | Secret] = {}
    bearer: Secret | None = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 300

    @model_validator(mode="after")
    def is_of_one_kind(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("say how it is reached: `command` starts it, `url` is where it is")
        local, remote = {"args", "env", "cwd"}, {"transport", "headers", "bearer"}
        if wrong := self.model_fields_set & (remote if self.command is not None else local):
            raise ValueError(f"`{min(wrong)}` does not go with `{'command' if self.command is not None else 'url'}`")
        return self

    def server(self, here: Path) -> Server:
        said = self.env if self.command is not None else self.headers
        return Server(
            argv=(self.command, *self.args) if self.command is not None else (),
            env={name: value for name, value in said.items() if isinstance(value, str)},
            secrets={name: value.place() for name, value in said.items() if isinstance(value, Secret)},
            cwd=here / (self.cwd or ""),
            timeout=self.timeout_seconds,
            url=self.url or "",
            bearer=self.bearer.place() if self.bearer else None,
            old=self.transport == "sse",
        )
