"""A new ledger of each engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_guard.storage.contract import Store
from tests.storage.contract.engines import PLACES, Place


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    place = PLACES[request.param](tmp_path)
    yield place
    place.close()


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


@pytest.fixture
def other(place: Place, store: Store) -> Store:
    """Another connection to the same ledger."""
    return place.open()
