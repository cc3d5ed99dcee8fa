"""Reads of a ledger file beside the calls."""

import threading
from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.engines import find_engine


async def test_a_thread_that_cannot_be_started_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task in the background survives that, as every failure of the ledger."""

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    engine = find_engine(tmp_path / "ledger.sqlite")
    engine.open_store(unsafe_skip_fsync=True, create=True).close()
    reader = engine.background_reader()
    with monkeypatch.context() as threadless:
        threadless.setattr(threading.Thread, "start", fail)
        with pytest.raises(LedgerError) as failure:
            await reader.read(lambda store: store.receipt(0))
    assert failure.value.full == "the ledger cannot be read beside the calls: can't start new thread"
    assert "ulimit -u" in failure.value.hint
    assert await reader.read(lambda store: store.receipt(0)) is None
    await reader.close()
