"""The few exceptions of the guard. A refused call is an outcome (a `Decision`), never an exception."""

from enum import StrEnum
from typing import Self

from mcp_guard.core.visible_text import VisibleText, say, visible_line

RAISE_THREAD_LIMIT = "raise the limit on processes and threads (`ulimit -u`, or of the container)"
"""The hint where no thread can be started."""


class GuardError(Exception):
    """A failure that a person must act on.

    `message` says what happened, in lower case with user input in backticks; agents and clients may read it. `full`
    is for the operator, and may also say where it happened. `hint` names the next command or edit, or is empty when
    there is none. As text, an error is its `full` and its hint, both made visible: a line break stays only in what is
    `VisibleText`.
    """

    def __init__(self, message: str, hint: str = "", full: str = "") -> None:
        super().__init__(full or message)
        self.message = message
        self.hint = hint
        self.full = full or message

    def __str__(self) -> str:
        message = visible_line(self.full)
        return say("{}\nhint: {}", message, visible_line(self.hint)) if self.hint else message


def defect_text(defect: Exception) -> VisibleText:
    """What an operator is told of an exception that nobody expected. The hint of a `GuardError` has its own line."""
    return say("{}: {}", type(defect).__name__, visible_line(str(defect)))


def reason_of(error: Exception) -> str:
    """Why a file cannot be read or written, in the system's words, without its number and the path."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


class ConfigError(GuardError):
    """The configuration cannot be used."""


class ListenError(GuardError):
    """An address to listen on is not available now: another process has it, or this machine does not have it yet."""


class PolicyError(GuardError):
    """The policies cannot be loaded; the running set, if any, stays."""


class LedgerFault(StrEnum):
    """Why the ledger cannot be used. A fault that lasts is reported once, however its message varies."""

    DISK_FULL = "disk full"
    READ_ONLY = "read-only"
    DISK_FAILURE = "disk failure"
    BUSY = "busy"
    DAMAGED = "damaged"
    NOT_A_LEDGER = "not a ledger"
    CANNOT_OPEN = "cannot open"
    REPLACED = "replaced"
    ROLLED_BACK = "rolled back"
    UNSIGNED_HEAD = "unsigned head"
    IN_DOUBT = "in doubt"
    CLOCK_SKEW = "clock skew"
    CLOCK_SET_BACK = "clock set back"
    RECEIPT_TOO_LARGE = "receipt too large"
    KEY_UNAVAILABLE = "key unavailable"
    SIGNER_FAILED = "signer failed"
    LEASE_LOST = "lease lost"
    OTHER = "other"


STABLE_MESSAGES = frozenset({LedgerFault.KEY_UNAVAILABLE, LedgerFault.OTHER})
"""Faults with several causes whose message does not vary while they last: another message is another trouble."""


class LedgerError(GuardError):
    """The ledger cannot be read or written; calls are refused until it can.

    INVARIANT: agents and clients read nothing but the kind of the fault, unless the error was made by `public`:
    what is wrong with a ledger may say where it or its key is.
    """

    def __init__(self, full: str, hint: str = "", fault: LedgerFault = LedgerFault.OTHER, message: str = "") -> None:
        unusable = "the ledger cannot be used" + ("" if fault is LedgerFault.OTHER else f": {fault}")
        super().__init__(message or unusable, hint, full)
        self.fault = fault

    @classmethod
    def public(cls, message: str, hint: str, fault: LedgerFault = LedgerFault.OTHER, where: str = "") -> Self:
        """An error of which agents and clients may read the message, but not `where` it happened."""
        return cls(f"{message}: {where}" if where else message, hint, fault, message)

    def within(self, form: str) -> "LedgerError":
        """A new error, in whose texts `form` has those of this one in place of its `{}`."""
        return LedgerError(form.format(self.full), self.hint, self.fault, form.format(self.message))


class UpstreamError(GuardError):
    """An upstream cannot be started or reached."""


class IdentityError(GuardError):
    """An agent or instance is unknown or revoked, or must not be issued as requested."""


class ApprovalError(GuardError):
    """A vote, or an operator's decision on a tool definition, is refused: it is unknown, settled, or not theirs."""


class SignInRequired(ApprovalError):
    """A vote is refused because its route demands another sign-in with the identity provider."""


class TooMuchMatching(Exception):
    """Finding out where the values of a call come from takes too many steps; the call must be denied."""
