"""The engines that the storage contract is tested with, and new ledgers of each."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine, open_store
from mcp_guard.storage.place import Database
from mcp_guard.storage.place import Place as StoragePlace
from mcp_guard.storage.postgres.connection import connect
from mcp_guard.storage.presence import Presence, lock_path
from tests.storage.postgres_server import server


@dataclass
class Place:
    """Where one ledger is. Each store that is opened is a connection of its own, as in another process."""

    place: StoragePlace
    folder: Path
    """The state folder of every guard."""
    stores: list[Store] = field(default_factory=list)
    presences: dict[str, Presence] = field(default_factory=dict)

    def open(self) -> Store:
        self.stores.append(open_store(self.place, unsafe_skip_fsync=True))
        return self.stores[-1]

    def open_reader(self) -> Store:
        self.stores.append(find_engine(self.place).open_reader())
        return self.stores[-1]

    def present(self, *guards: str) -> list[Presence]:
        """These guards run, each in a process of its own."""
        engine = find_engine(self.place)
        return [self.presences.setdefault(guard, engine.open_presence(self.folder, guard, 60)) for guard in guards]

    def kill(self, guard: str) -> None:
        """This guard ends without giving its presence back, and long enough ago that others can tell."""
        if isinstance(self.place, Database):
            with closing(connect(self.place)) as connection:
                connection.execute("UPDATE lease SET expires = now() - INTERVAL '1s' WHERE guard = %s", (guard,))
        else:
            path = lock_path(self.folder, guard)
            self.presences.pop(guard).release()
            path.touch()

    def close(self) -> None:
        for store in self.stores:
            store.close()
        for presence in self.presences.values():
            presence.release()


def sqlite(folder: Path) -> Place:
    return Place(folder / "ledger.sqlite", folder)


def postgres(folder: Path) -> Place:
    return Place(Database(server().url, f"test.example/{next(ORIGINS)}/{folder.name}"), folder)


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
