"""An external signer for tests: signs its input with the seed (hex) in a file, or misbehaves as `SEED.mood` says."""

import base64
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

seed = Path(sys.argv[1])
mood = Path(f"{seed}.mood")
said = mood.read_text() if mood.exists() else ""
data = sys.stdin.buffer.read()
if said == "sleep":
    time.sleep(60)
if said == "fail":
    sys.exit("the token is not plugged in")
if said == "babble":
    sys.stdout.write("hello\n")
else:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed.read_text()))
    sys.stdout.write(base64.b64encode(key.sign(data + (b"?" if said == "other" else b""))).decode() + "\n")
