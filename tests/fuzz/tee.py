"""Runs a server on stdio and records every frame of the conversation: tee.py LOG COMMAND…"""

import json
import subprocess
import sys
import threading
from typing import IO


def copy(name: str, source: IO[bytes], sink: IO[bytes], log: IO[str]) -> None:
    for line in source:
        log.write(json.dumps([name, line.decode().rstrip("\n")]) + "\n")
        log.flush()
        sink.write(line)
        sink.flush()
    sink.close()


def main() -> None:
    process = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    log = open(sys.argv[1], "a")
    upward = threading.Thread(target=copy, args=("client", sys.stdin.buffer, process.stdin, log), daemon=True)
    upward.start()
    copy("server", process.stdout, sys.stdout.buffer, log)
    process.wait()


if __name__ == "__main__":
    main()
