"""What every engine raises beside LedgerError."""


class ChangedElsewhere(Exception):
    """A compare-and-set found another value than expected; the transaction must be rolled back."""


class HeadMoved(ChangedElsewhere):
    """A transaction was built on a head that another process has advanced meanwhile, or may have. It must be rolled
    back, and can be repeated from its beginning."""
