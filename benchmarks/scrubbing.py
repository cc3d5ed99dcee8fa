"""Measure the search of upstream replies for secrets: processor time by size, kind of reply and secrets."""

import base64
import json
import random
import time

from mcp_guard.core.secret_scrubber import Scrubber

LONG, MIXED, SHORT = "ghp_AbcdEfghIjklMnopQrstUvwxYz0123456789", "sk-live-51Habc/def+ghi=", "hunter22"
SECRETS = {"one of 40 characters": [LONG], "three": [LONG, MIXED, "p4ss word&1"], "one of 8 characters": [SHORT]}
SIZES = {1000: 200, 100_000: 10, 5_000_000: 1}
"""How often each size is searched."""
LUCK = random.Random(1)
WORDS = ["".join(LUCK.choices("abcdefghijklmnopqrstuvwxyz", k=LUCK.randint(2, 11))) for _ in range(3000)]


def prose(size: int) -> str:
    return " ".join(LUCK.choices(WORDS, k=size // 7 + 1))[:size]


def rows(size: int) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for _ in range(size // 250 + 1):
        page, term, word = LUCK.choices(WORDS, k=3)
        url, digest = f"https://example.com/{page}?q={term}&x=%20{word}", f"{LUCK.getrandbits(160):040x}"
        made.append({"id": LUCK.randrange(10**9), "url": url, "sha": digest, "note": prose(80)})
    return made


def reply(result: dict[str, object]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()


def text(value: str) -> bytes:
    return reply({"content": [{"type": "text", "text": value}]})


def main() -> None:
    for size, times in SIZES.items():
        replies = {
            "prose": text(prose(size)),
            "JSON in text": text(json.dumps(rows(size))),
            "structured content": reply({"structuredContent": {"rows": rows(size)}}),
            "base64": text(base64.b64encode(LUCK.randbytes(size * 3 // 4)).decode()),
        }
        for name, line in replies.items():
            for kind, secrets in SECRETS.items():
                scrubber = Scrubber()
                for number, secret in enumerate(secrets):
                    scrubber.learn(f"SECRET_{number}", secret)
                print(f"{size:9} {name:20} {kind:22} {1e6 * measure(scrubber, line, times):10.0f} µs")


def measure(scrubber: Scrubber, line: bytes, times: int) -> float:
    """The best of three, in seconds."""
    best = 1e9
    for _ in range(3):
        began = time.process_time()
        for _ in range(times):
            scrubber.clean(line)
        best = min(best, (time.process_time() - began) / times)
    return best


if __name__ == "__main__":
    main()
