"""Runs promises with each engine of storage: `pytestmark = pytest.mark.usefixtures("each_engine")`."""

from collections.abc import Iterator

import pytest

from tests.promises.engines import ENGINES, using


@pytest.fixture(params=ENGINES)
def each_engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the engine."""
    with using(request.param):
        yield request.param
