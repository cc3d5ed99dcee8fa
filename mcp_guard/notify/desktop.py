"""A notification on this machine's desktop: notify-send (Linux) or osascript (macOS)."""

import json
import shutil
import subprocess
import sys

from mcp_guard.notify.message import Message
from mcp_guard.outbound import Options, Undelivered


def send(_: Options, message: Message) -> None:
    """Raises: Undelivered."""
    command = ["notify-send", "--app-name=mcp-guard", "--", message.title, "\n".join(message.lines)]
    if sys.platform == "darwin":
        said = f"display notification {json.dumps(message.lines[0])} with title {json.dumps(message.title)}"
        command = ["osascript", "-e", said]
    if shutil.which(command[0]) is None:
        raise Undelivered(f"`{command[0]}` is not installed")
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        raise Undelivered(f"`{command[0]}` did not run, or not in 10 s") from None
    if done.returncode:
        raise Undelivered(f"`{command[0]}` exited with status {done.returncode}; is there a desktop?")
