"""The engines that the storage contract is tested with, and new ledgers of each."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine, open_store


@dataclass
class Place:
    """Where one ledger is. Each store that is opened is a connection of its own, as in another process."""

    path: Path
    stores: list[Store] = field(default_factory=list)

    def open(self) -> Store:
        self.stores.append(open_store(self.path, unsafe_skip_fsync=True))
        return self.stores[-1]

    def open_reader(self) -> Store:
        self.stores.append(find_engine(self.path).open_reader(self.path))
        return self.stores[-1]

    def close(self) -> None:
        for store in self.stores:
            store.close()


def sqlite(folder: Path) -> Place:
    return Place(folder / "ledger.sqlite")


PLACES: Mapping[str, Callable[[Path], Place]] = {"sqlite": sqlite}
"""By engine, what makes a place for a new ledger; `folder` is empty."""


@contextmanager
def writing(store: Store) -> Iterator[Store]:
    """One transaction, which is rolled back if the block raises."""
    store.begin()
    try:
        yield store
        store.commit()
    except BaseException:
        store.rollback()
        raise
