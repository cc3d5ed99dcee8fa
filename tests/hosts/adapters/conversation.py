"""What every adapter does: print the names of the tools, then make each call that comes on stdin and print its result.

Runs in the adapter's own environment, so it imports nothing but the standard library.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Json = dict[str, Any]
OUTPUT, sys.stdout = sys.stdout, sys.stderr
"""Libraries print; what they print goes to stderr."""

GUARD: Json = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
"""How to reach the guard: `argv`, or `url` and `headers`."""


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def converse(tools: Iterable[str], call: Callable[[str, Json], Awaitable[object]]) -> None:
    """One JSON document a line: on stdout the names, then the results; on stdin pairs of a tool and its arguments."""
    print(json.dumps(list(tools)), file=OUTPUT, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, arguments = json.loads(line)
        try:
            result = str(await call(name, arguments))
        except Exception as e:
            result = f"{type(e).__name__}: {_innermost(e)!r}"
        print(json.dumps(result), file=OUTPUT, flush=True)
