"""Coverage-guided fuzzing of one target by atheris: `make fuzz-cover`, in an environment of its own.

Prints libFuzzer's sums; a finding ends it with a traceback and leaves its bytes in the folder of findings.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mcp_guard"]):
    from tests.fuzz.targets import NAMES, load

    parser = argparse.ArgumentParser(prog="make fuzz-cover")
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    target = load(options.target)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mcp-guard-corpus-") as corpus:
        for number, seed in enumerate(target.SEEDS):
            (Path(corpus) / str(number)).write_bytes(seed)
            target.check(seed)  # do one-time imports and setup now
        words = [
            sys.argv[0], corpus, f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-print_final_stats=1",
            "-verbosity=0", "-max_len=4096", "-timeout=10", f"-artifact_prefix={options.findings}/{options.target}-",
        ]  # fmt: skip
        atheris.Setup(words, target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
