"""Modules that others import at once and use seldom: for a guard that runs they are loaded when first asked of.

A guard lives with every client session, so what it does not use it does not hold; see docs/decisions/0036. Nothing is
taken away: whoever needs one of these gets it whole.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it imports a third of a megabyte
    from importlib.abc import Loader

LATE = (
    "asyncio.sslproto",  # asyncio, for streams over TLS
    "cedarpy.pst",  # cedarpy, for syntax trees in Python
    "inspect",  # asyncio, and dataclasses for the signature of a class that has no docstring; with ast, dis, tokenize
    "ipaddress",  # urllib.parse, for addresses in brackets
    "locale",  # subprocess, for pipes of text
    "ssl",  # asyncio; loads the system's OpenSSL beside the one that cryptography has
)


ONE_AT_A_TIME = RLock()
"""One lock for all of them, as one may load another."""


class LateModule(ModuleType):
    """Loaded when a name is asked of it; whoever asks meanwhile, from another thread, waits until it is whole."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):  # what the import system asks
            loader = ModuleType.__getattribute__(self, "__spec__").loader
            loader.load(self)
        return ModuleType.__getattribute__(self, name)


class LateLoader:
    """`importlib.util.LazyLoader`, which before Python 3.12.3 gives a second thread the module half loaded."""

    def __init__(self, real: "Loader") -> None:
        self._real = real
        self._waits = True

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = LateModule

    def load(self, module: ModuleType) -> None:
        with ONE_AT_A_TIME:
            if self._waits:
                self._waits = False
                self._real.exec_module(module)
                module.__class__ = ModuleType


class LateFinder:
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in LATE else None
        if spec is not None and spec.loader is not None:
            spec.loader = LateLoader(spec.loader)  # type: ignore[assignment] # as far as importlib asks, it is one
        return spec


def load_late() -> None:
    """From now on, what is in `LATE` and not yet imported is loaded at its first use."""
    sys.meta_path.insert(0, LateFinder())
