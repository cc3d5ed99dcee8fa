"""Sample signals for `python = "…"`, as an operator would write them: one function per way to answer or to fail."""

import threading
from typing import Any

released = threading.Event()


def raised(call: dict[str, Any]) -> dict[str, Any]:
    return {"raised": True, "because": f"{call['tool']} of {call['agent']} on {call['resource']['id']}"}


def calm(call: dict[str, Any]) -> None:
    return None


def text(call: dict[str, Any]) -> str:
    return "looks odd"


def broken(call: dict[str, Any]) -> None:
    raise KeyError("secret")


def nonsense(call: dict[str, Any]) -> int:
    return 7


def hangs(call: dict[str, Any]) -> None:
    released.wait(30)
