"""Serves the pages at one origin, and takes a share in the delivery of notifications: `inbox` and `web`."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from mcp_guard.core.errors import ConfigError, LedgerError
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, on_loop, open_writer
from mcp_guard.ledger.writer import Writer
from mcp_guard.settings import Settings
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.items import Items
from mcp_guard.storage.used_proofs import MAX_PROOFS
from mcp_guard.trouble import TroubleReport
from mcp_guard.web.tls import ServedCertificate

CERTIFICATE_SECONDS = 60
"""How often the certificate's files are looked at."""
ITEMS_SECONDS = 60
"""How often it is found out whether what the pages share can be used."""
NICENESS = 10
"""Of the process, so that the calls of guards on this machine go first."""
Note = Callable[[str], None]


async def serve_pages(
    settings: Settings,
    origin: str,
    sockets: list[socket.socket],
    on_open: Callable[[], None],
    *,
    writer: Writer | None = None,
    delivers: bool = True,
    tls: ServedCertificate | None = None,
    until: "asyncio.Task[object] | None" = None,
    note: Note,
) -> None:
    """Serve until interrupted, or until the task `until` has ended. `on_open` is called once the ledger is open, which
    `writer` may have done. Unless it `delivers`, another process of the machine delivers notifications.

    Raises: ConfigError, LedgerError.
    """
    from mcp_guard.inbound import HttpServer
    from mcp_guard.notify.start import make_dispatcher
    from mcp_guard.web.app import make_app, make_console

    os.nice(NICENESS)
    ledger = ledger_settings(settings)
    writer, engine = writer or open_writer(ledger, CLOCK), find_engine(ledger.place)
    reader = engine.background_reader()
    answered = engine.open_used_proofs(settings.state_dir, most=2 * MAX_PROOFS)  # agents cannot fill it
    items, votes = engine.open_items(settings.state_dir), Votes(writer, settings.routes, settings.approvers)
    console = make_console(settings, votes, reader, items, answered, origin)
    dispatcher = make_dispatcher(settings, writer, reader, items)
    server = HttpServer(make_app(console), tls=tls.context if tls else None)
    report = TroubleReport(note, "nobody can sign in to the pages")
    await _check_items(items, report)
    on_open()
    async with on_loop(writer, engine, reader), asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(dispatcher.run())] if delivers else []
        background.append(tasks.create_task(console.search.run(note)))
        background.append(tasks.create_task(_watch_items(items, report)))
        if tls is not None:
            background.append(tasks.create_task(_follow_certificate(tls, note)))
        if until is not None:
            until.add_done_callback(lambda _: server.handle_exit(0, None))
        await server.serve(sockets=sockets)
        for task in background:
            task.cancel()
    await answered.close()
    await items.close()


async def _check_items(items: Items, report: TroubleReport) -> None:
    with suppress(LedgerError), report.watching():
        await items.check()


async def _watch_items(items: Items, report: TroubleReport) -> None:
    while True:
        await asyncio.sleep(ITEMS_SECONDS)
        await _check_items(items, report)


async def _follow_certificate(tls: ServedCertificate, note: Note) -> None:
    told = ""
    while True:
        await asyncio.sleep(CERTIFICATE_SECONDS)
        try:
            if tls.reload_if_changed():
                note(f"serving the new certificate of `{tls.certificate}`")
        except ConfigError as error:
            if str(error) != told:
                note(f"serving the old certificate: {error}")
            told = str(error)
