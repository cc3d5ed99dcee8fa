"""Regenerates `frames.json`: what the official client and server send in both protocol versions, on either side of a
guard.

.venv/bin/python -m tests.fuzz.record
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp import Client, StdioServerParameters

from tests.live.running_guard import command, upstream, write_config

HERE = Path(__file__).parent
FRAMES = HERE / "frames.json"
ERAS = {"handshake": ("legacy", "old"), "stateless": ("2026-07-28", "modern")}
"""How the client and the server are told which protocol version to use."""
TEE = [sys.executable, str(HERE / "tee.py")]
SERVER = str(HERE.parent / "servers" / "protocol_versions.py")


async def answer(_: Any, params: Any) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": "Ada"})


async def roots(_: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///x")])


ANSWERS: dict[str, Any] = {"elicitation_callback": answer, "list_roots_callback": roots}


async def converse(folder: Path, mode: str, era: str) -> None:
    server = upstream("up", *TEE, str(folder / "upstream"), sys.executable, SERVER, era, str(folder / "log"))
    words = [*TEE, str(folder / "client"), *command("run", "--config", str(write_config(folder, server)))]
    parameters = StdioServerParameters(command=words[0], args=words[1:], env=dict(os.environ))
    with anyio.fail_after(60):
        async with Client(parameters, mode=mode, **ANSWERS) as client:
            await client.list_tools()
            await client.list_resources()
            await client.list_prompts()
            for name, arguments in (
                ("echo", {"text": "hi"}), ("steps", {}), ("greet", {}), ("wait", {}), ("change", {}), ("echo", {}),
            ):  # fmt: skip
                if (name, era) != ("wait", "old"):
                    await client.call_tool(f"up__{name}", arguments, progress_callback=heard)
            await client.read_resource("mem://one")
            await client.get_prompt("up__hello", {"name": "Ada"})


async def heard(progress: float, total: float | None, message: str | None) -> None:
    """Passing a callback makes the client request progress."""


def main() -> None:
    result: dict[str, dict[str, list[str]]] = {}
    for name, (mode, era) in ERAS.items():
        with tempfile.TemporaryDirectory() as made:
            anyio.run(converse, Path(made), mode, era)
            lines = {side: (Path(made) / side).read_text().splitlines() for side in ("client", "upstream")}
        said = {side: [json.loads(line) for line in these] for side, these in lines.items()}
        result[name] = {
            "client": list(dict.fromkeys(frame for who, frame in said["client"] if who == "client")),
            "upstream": list(dict.fromkeys(frame for who, frame in said["upstream"] if who == "server")),
        }
    FRAMES.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
