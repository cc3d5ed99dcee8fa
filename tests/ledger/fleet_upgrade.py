"""Moves a ledger of an older format into a database as an operator does, with the commands: `make fleet-upgrade`."""

import argparse
import gzip
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.ledger.older_ledger import LEDGERS, ORIGIN_4
from tests.live.running_guard import cli, command, write_config, write_private
from tests.storage.postgres_server import server

FIXTURE = LEDGERS / "format-4"
ORIGIN = f'origin = "{ORIGIN_4}"'
DATABASE = '[ledger]\ndatabase = { file = "url" }'
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def upgrade(source: Path, folder: Path, cli: Run = cli) -> Path:
    """Migrate the ledger of format 4 in `source`, copy it into the tests' database, and verify it there against its old
    checkpoint. Returns the configuration, by which guards go on with it."""
    state = folder / "state"
    state.mkdir(mode=0o700)
    with gzip.open(source / "ledger.sqlite.gz") as packed, (state / "ledger.sqlite").open("wb") as ledger:
        shutil.copyfileobj(packed, ledger)
    for name in ("ledger.key", "ledger.pub"):
        shutil.copyfile(source / name, state / name)
        (state / name).chmod(0o600)
    (state / "ledger.sqlite").chmod(0o600)
    config = write_config(folder, "", guard=ORIGIN)
    write_private(folder / "url", server().new_database())
    checkpoint = source / "checkpoint"

    def run(*words: str) -> str:
        return cli(*words, "--config", str(config)).stdout

    run("ledger", "migrate")
    copied = json.loads(run("ledger", "copy", "--to", f"file:{folder / 'url'}", "--json"))
    (state / "ledger.sqlite").rename(state / "ledger.sqlite.unused")
    write_config(folder, "", guard=ORIGIN, more=DATABASE)
    report = json.loads(run("verify", "--against", str(checkpoint), "--json"))
    size = int(checkpoint.read_text().splitlines()[1])
    assert (report["ok"], report["against"], report["receipts"]) == (True, [size], copied["receipts"])
    assert report["format_4"] == size == copied["receipts"] - 1
    run("ledger", "backup", str(folder / "backup"), "--with-key")
    assert (folder / "backup" / "checkpoint").read_text() == report["checkpoint"]
    return config


def run_and_measure(*words: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own, so that its memory is seen."""
    began = time.monotonic()
    done = subprocess.run(command(*words), capture_output=True, text=True)
    assert done.returncode == 0, f"{words} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    say(f"{' '.join(words[:2]):<16} {time.monotonic() - began:6.1f} s, at most {memory} MiB so far")
    return done


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ledger", type=Path, nargs="?", default=FIXTURE, help="a folder of `make ledger-format-4`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        upgrade(options.ledger, Path(folder), run_and_measure)
    say("its receipts verify in the database, and in a backup of it, against its old checkpoint")
    return 0


if __name__ == "__main__":
    sys.exit(main())
