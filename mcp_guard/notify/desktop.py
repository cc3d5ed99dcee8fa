"""A notification on this machine's desktop, by notify-send (Linux) or osascript (macOS)."""

import html
import shutil
import subprocess
import sys

from mcp_guard.core.visible_text import join
from mcp_guard.notify.message import Message
from mcp_guard.outbound import DeliveryError, Destination

TIMEOUT_SECONDS = 10


def send(_: Destination, message: Message) -> None:
    """Raises: DeliveryError."""
    argv = _osascript(message) if sys.platform == "darwin" else _notify_send(message)
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


def _notify_send(message: Message) -> list[str]:
    """The body may be parsed as markup (Desktop Notifications Specification, "Markup"), and notify-send replaces C
    escapes in it (`g_strcompress`), so both are escaped. The summary is plain text."""
    body = html.escape("\n".join(message.lines), quote=False).replace("\\", "\\\\")
    return ["notify-send", "--app-name=mcp-guard", "--", message.title, body]


def _osascript(message: Message) -> list[str]:
    """The texts are arguments of a fixed script; the lines that `make_message` composes never begin with a dash."""
    script = ("on run argv", "display notification (item 1 of argv) with title (item 2 of argv)", "end run")
    options = [word for line in script for word in ("-e", line)]
    body = join(" ", message.lines[: 1 + bool(message.fields) + bool(message.omission) + bool(message.caution)])
    return ["osascript", *options, body, message.title]
