"""A command of the operator's: the message as JSON on its standard input, a bare environment."""

import json
import os
import subprocess

from mcp_guard.notify.message import Message
from mcp_guard.outbound import Options, Undelivered

SECONDS = 30


def send(options: Options, message: Message) -> None:
    """Raises: Undelivered."""
    argv = list(options.values["command"])
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    said = json.dumps({**message.data, "title": message.title, "text": "\n".join(message.lines)}).encode()
    try:
        done = subprocess.run(
            argv, input=said, capture_output=True, timeout=SECONDS, check=False, env=environment, cwd=options.here
        )
    except (OSError, subprocess.TimeoutExpired):
        raise Undelivered(f"`{argv[0]}` did not run, or not in {SECONDS} s") from None
    if done.returncode:
        raise Undelivered(f"`{argv[0]}` exited with status {done.returncode}")
