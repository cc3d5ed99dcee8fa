"""A notification on this machine's desktop, by notify-send (Linux) or osascript (macOS)."""

import json
import shutil
import subprocess
import sys

from mcp_guard.notify.message import Message
from mcp_guard.outbound import DeliveryError, Destination

TIMEOUT_SECONDS = 10


def send(_: Destination, message: Message) -> None:
    """Raises: DeliveryError."""
    argv = ["notify-send", "--app-name=mcp-guard", "--", message.title, "\n".join(message.lines)]
    if sys.platform == "darwin":
        script = f"display notification {json.dumps(message.lines[0])} with title {json.dumps(message.title)}"
        argv = ["osascript", "-e", script]
    if shutil.which(argv[0]) is None:
        raise DeliveryError(f"`{argv[0]}` is not installed")
    try:
        process = subprocess.run(
            argv, capture_output=True, timeout=TIMEOUT_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"`{argv[0]}` did not finish within {TIMEOUT_SECONDS} s") from None
    except OSError as error:
        raise DeliveryError(f"cannot run `{argv[0]}`: {error.strerror}") from None
    if process.returncode:
        raise DeliveryError(f"`{argv[0]}` exited with status {process.returncode}; is a desktop session running?")
