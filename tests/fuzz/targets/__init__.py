"""What is fuzzed without a process: each target has `check(data)`, which raises where a property does not hold, and
`SEEDS` to begin with. Hypothesis runs them in `make test`, atheris in `make fuzz-cover`."""

from importlib import import_module
from typing import Protocol

NAMES = ("canonical", "framing", "config", "request", "credential", "note", "export", "visible_text")


class Target(Protocol):
    SEEDS: tuple[bytes, ...]

    def check(self, data: bytes) -> None:
        """Raises: AssertionError where a property does not hold; anything else is a defect too."""


def load(name: str) -> Target:
    target: Target = import_module(f"tests.fuzz.targets.{name}")
    return target
