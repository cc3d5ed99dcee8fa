"""Options that select receipts, for `mcp-guard log`. The fields are those of `core/receipt_filters.py`."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from mcp_guard.cli import times
from mcp_guard.core.call_summary import is_look_up
from mcp_guard.core.model import Micros
from mcp_guard.core.receipt_filters import FIELDS, Receipt
from mcp_guard.core.visible_text import VisibleText, join, say

WIDER = VisibleText("choose other times; mcp-guard log lists the latest receipts")


def add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters", "all must match; repeat one to allow several values")
    for name, option in FIELDS.items():
        read = partial(_choose, option.choices) if option.choices else str
        group.add_argument(
            f"--{name}", action="append", type=read, choices=option.choices, metavar=name.upper(),
            help=f"receipts {option.help}",
        )  # fmt: skip
    group.add_argument("--since", type=times.since, metavar="TIME", help=f"from this time on: {times.EXAMPLES}")
    group.add_argument("--until", type=times.until, metavar="TIME", help="up to this time; a day includes its end")


def _choose(choices: Sequence[str], text: str) -> str:
    """Raises: argparse.ArgumentTypeError, which names the nearest choice."""
    if text in choices:
        return text
    import difflib

    close = difflib.get_close_matches(text, choices, 1)
    meant = f"; did you mean `{close[0]}`?" if close else f": {', '.join(choices)}"
    raise argparse.ArgumentTypeError(f"`{text}` is not one of {len(choices)} values{meant}")


@dataclass(slots=True)
class ReceiptFilter:
    """What was asked for, and which values of the same members it has met, for a hint if nothing matches."""

    wanted: Mapping[str, list[str]] = field(default_factory=dict)
    since: Micros | None = None
    until: Micros | None = None
    _met: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, options: argparse.Namespace) -> "ReceiptFilter":
        wanted = {name: values for name in FIELDS if (values := getattr(options, name))}
        return cls(wanted, options.since, options.until)

    def __bool__(self) -> bool:
        return bool(self.wanted) or self.since is not None or self.until is not None

    def matches(self, receipt: Receipt, of_call: Callable[[str], Iterable[Receipt]]) -> bool:
        """Whether it matches; `of_call` reads all receipts of a call.

        A decision, a vote and a result are receipts of their own, so `--approver alice --outcome ok` selects a receipt
        that matches one of them, if other receipts of its call match the rest.
        """
        failing = [name for name in self.wanted if not self._is_met(name, receipt)]
        if not failing:
            return True
        related = [name for name in self.wanted if FIELDS[name].of_call]
        if not set(failing) < set(related) or not receipt.get("call") or is_look_up(receipt):
            return False
        others = [other for other in of_call(receipt["call"]) if not is_look_up(other)]
        return all(any(self._is_met(name, other) for other in others) for name in failing)

    def _is_met(self, name: str, receipt: Receipt) -> bool:
        values = [value for value in FIELDS[name].values(receipt) if isinstance(value, str)]
        self._met.setdefault(name, set()).update(values)
        return any(FIELDS[name].matches(value, wanted) for value in values for wanted in self.wanted[name])

    def explain_nothing(self) -> VisibleText:
        """What to change, if nothing matched."""
        import difflib

        for name, values in self.wanted.items():
            met = self._met.get(name, set())
            for wanted in values:
                if not any(FIELDS[name].matches(value, wanted) for value in met):
                    close = difflib.get_close_matches(wanted, met, 1)
                    meant = say("; did you mean `{}`?", close[0]) if close else ""
                    when = VisibleText("" if self.since is None and self.until is None else " of this time")
                    return say("--{} `{}` matches no receipt{}{}", name, wanted, when, meant)
        names = join(", ", (f"--{name}" for name in self.wanted))
        return say("no receipt matches all of {}; leave one out", names) if len(self.wanted) > 1 else WIDER
