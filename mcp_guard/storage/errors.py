"""What every engine raises beside LedgerError."""


class ChangedElsewhere(Exception):
    """A compare-and-set found another value than expected; the transaction must be rolled back."""
