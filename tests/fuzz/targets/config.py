"""Configuration: any file either loads, or is refused with a hint."""

import tempfile
import warnings
from pathlib import Path

from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError
from mcp_guard.settings import Settings

HERE = Path(__file__).parent.parent.parent.parent
FILE = Path(tempfile.mkdtemp(prefix="mcp-guard-fuzz-")) / "guard.toml"
SMALL = b"""
[guard]
policies = "p"
ticket_pattern = "[A-Z]+-[0-9]+"
[agents.a]
owner = "bob"
[upstreams.up]
command = "x"
args = ["y"]
[tools."up__t"]
resource = { type = "Thing", id = "/id" }
[resources.Thing.attributes]
amount = "number"
[rates.writes]
window_seconds = 60
by = ["agent", "tool"]
[approvers.alice]
name = "Alice"
[routes.people]
approvers = ["alice"]
notify = ["hook"]
[notifiers.hook]
kind = "webhook"
url = "https://example.com/x"
secret = { env = "S" }
[serve]
port = 8700
"""
SEEDS = (
    SMALL, (HERE / "config.example.toml").read_bytes(), b"[" * 2000, b"a = " + b"[" * 3000, b"a = 1979-05-27",
    SMALL.replace(b'"p"', b'"p\\u0000"'), SMALL.replace(b"[A-Z]+-[0-9]+", b"a{99999999999}"),
    SMALL.replace(b"[A-Z]+-[0-9]+", b"(" * 3000), SMALL.replace(b"60", b"9" * 5000), SMALL.replace(b"8700", b"inf"),
    SMALL.replace(b"https://example.com/x", b"https://[::1"), SMALL.replace(b"60", b"9" * 300),
)  # fmt: skip


def check(data: bytes) -> None:
    FILE.write_bytes(data)
    try:
        with warnings.catch_warnings():  # about regular expressions whose meaning will change
            warnings.simplefilter("ignore")
            loaded = load(FILE)
    except ConfigError as refused:
        assert refused.hint, refused.message
        assert refused.message
        return
    assert isinstance(loaded, Settings)
    assert not {path for path in (loaded.state_dir, loaded.policies) if "\0" in str(path)}
