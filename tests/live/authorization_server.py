"""Runs the authorization server of `tests/servers/authority.py` for a test, with configurations that use it."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2 as httpx

from tests.live.http_guard import NO_TLS, await_answer, free_port
from tests.live.preloaded_cli import DEVNULL, Forked
from tests.live.running_guard import SERVERS, Json


class Authority:
    """Runs in `folder`; `behave` changes how it answers from then on."""

    def __init__(self, folder: Path, **how: object) -> None:
        self.folder, self.port, self._how = folder, free_port(), how
        self.behave()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def behave(self, **how: object) -> None:
        self._how |= how
        (self.folder / "authority.json").write_text(json.dumps(self._how))

    def __enter__(self) -> Self:
        words = [str(self.port), str(self.folder)]
        self.process = Forked(words, script=SERVERS / "authority.py", stdout=DEVNULL, stderr=DEVNULL)
        await_answer(f"{self.url}/mcp")
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()

    def drop(self) -> None:
        """Expire every access token now, before its announced lifetime."""
        httpx.post(f"{self.url}/drop", trust_env=False, verify=NO_TLS)

    def asked(self, what: str) -> list[Json]:
        path = self.folder / "asked.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [item for item in map(json.loads, lines) if item["what"] == what]

    def section(
        self, secret: str, grant: str = "client_credentials", more: str = "", client_id: str = "guard & co"
    ) -> str:
        """The TOML of the upstream `far`; `secret` is the TOML of the secret's source, or empty."""
        said = f"client_secret = {secret}\n" if secret else ""
        said += f'client_id = "{client_id}"\n' if client_id else ""
        return f'[upstreams.far]\nurl = "{self.url}/mcp"\n[upstreams.far.oauth]\ngrant = "{grant}"\n{said}{more}\n'
