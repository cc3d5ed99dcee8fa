"""The few exceptions of the guard. A refused call is an outcome (a `Decision`), never an exception."""


class GuardError(Exception):
    """Something a person must act on.

    `message` says what happened and where, in lower case with user input in backticks; `hint` names the next command
    or edit, or is empty when there is none.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class ConfigError(GuardError):
    """The configuration cannot be used."""


class PolicyError(GuardError):
    """The policies cannot be loaded; the running set, if any, stays."""


class LedgerError(GuardError):
    """The ledger cannot be read or written; calls are refused until it can."""


class UpstreamError(GuardError):
    """An upstream cannot be started or reached."""


class IdentityError(GuardError):
    """An agent or instance is unknown, revoked, or not to be issued as asked."""


class ApprovalError(GuardError):
    """An approval cannot take this step: unknown, already decided, or not this person's to decide."""
