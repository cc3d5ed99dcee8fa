"""The engines that the storage contract is tested with, and new ledgers of each."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine, open_store
from mcp_guard.storage.place import Database
from mcp_guard.storage.place import Place as StoragePlace
from tests.storage.postgres_server import server


@dataclass
class Place:
    """Where one ledger is. Each store that is opened is a connection of its own, as in another process."""

    place: StoragePlace
    stores: list[Store] = field(default_factory=list)

    def open(self) -> Store:
        self.stores.append(open_store(self.place, unsafe_skip_fsync=True))
        return self.stores[-1]

    def open_reader(self) -> Store:
        self.stores.append(find_engine(self.place).open_reader())
        return self.stores[-1]

    def close(self) -> None:
        for store in self.stores:
            store.close()


def sqlite(folder: Path) -> Place:
    return Place(folder / "ledger.sqlite")


def postgres(folder: Path) -> Place:
    return Place(Database(server().url, f"test.example/{next(ORIGINS)}/{folder.name}"))


ORIGINS = itertools.count()
PLACES: Mapping[str, Callable[[Path], Place]] = {"sqlite": sqlite, "postgres": postgres}
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
