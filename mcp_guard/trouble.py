"""Reports a lasting failure to the operator once. Agents hear of it each time, in fewer words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mcp_guard.core.errors import GuardError
from mcp_guard.core.visible_text import say


class TroubleReport:
    """Notes the first failure, and the first after each success. `what` says what cannot be done."""

    def __init__(self, note: Callable[[str], None], what: str) -> None:
        self._note = note
        self._what = what
        self._is_failing = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raises: what the block raises."""
        try:
            yield
        except GuardError as error:
            if not self._is_failing:
                self._note(say("{}: {}", self._what, str(error)))
            self._is_failing = True
            raise
        self._is_failing = False
