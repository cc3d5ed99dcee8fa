"""Runs a command of the operator's, with the message as JSON on standard input and a minimal environment."""

import os
import subprocess

from mcp_guard.core.visible_text import visible_json
from mcp_guard.notify.message import Message
from mcp_guard.outbound import DeliveryError, Destination
from mcp_guard.secrets import network_variables

TIMEOUT_SECONDS = 30
PASSED_VARIABLES = ("PATH", "HOME", "LANG")


def send(destination: Destination, message: Message) -> None:
    """Raises: DeliveryError."""
    argv = list(destination.options["command"])
    environment = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    environment |= network_variables(os.environ)
    document = visible_json({**message.data, "title": message.title, "text": "\n".join(message.lines)}).encode()
    try:
        process = subprocess.run(
            argv, input=document, capture_output=True, timeout=TIMEOUT_SECONDS, check=False, env=environment,
            cwd=destination.base_dir,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"`{argv[0]}` did not finish within {TIMEOUT_SECONDS} s") from None
    except OSError as error:
        raise DeliveryError(f"cannot run `{argv[0]}`: {error.strerror}") from None
    if process.returncode:
        raise DeliveryError(f"`{argv[0]}` exited with status {process.returncode}")
