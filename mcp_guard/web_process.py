"""The process that serves the pages beside `serve`: what it does for people costs the calls of agents nothing."""

import asyncio
from contextlib import suppress

from mcp_guard.own_command import OWN_COMMAND
from mcp_guard.server_log import ServerLog
from mcp_guard.settings import Settings

RESTART_SECONDS = (1.0, 5.0, 15.0, 60.0)
"""How long to wait before the process is started again, after each time that it has ended soon."""
STEADY_SECONDS = 60.0
"""After that it has not ended soon."""
STOP_SECONDS = 6.0


async def keep_web_running(settings: Settings, log: ServerLog) -> None:
    """Run `mcp-guard web` until this is cancelled. It starts again whenever it ends, for whatever reason."""
    log_options = ["--log-format", log.format, *(["--log-level", log.level_name] if log.level_name else [])]
    command = [*OWN_COMMAND, "web", "--config", str(settings.path), "--supervised"]
    loop, soon = asyncio.get_running_loop(), 0
    while True:
        began = loop.time()
        try:
            await _run([*command, *log_options])
            what = "the process of the pages has ended"
        except OSError as error:
            what = f"the process of the pages cannot be started: {error.strerror}"
        soon = 0 if loop.time() - began > STEADY_SECONDS else soon + 1
        seconds = RESTART_SECONDS[min(soon, len(RESTART_SECONDS)) - 1] if soon else RESTART_SECONDS[0]
        log.note(f"{what}; it starts again in {seconds:.0f} s. Calls are served meanwhile")
        await asyncio.sleep(seconds)


async def _run(command: list[str]) -> None:
    """Until it ends. If this is cancelled it is stopped first. Raises: OSError."""
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, start_new_session=True)
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            await asyncio.shield(_stop(process))


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
