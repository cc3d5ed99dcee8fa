"""Two gateways of one ledger in PostgreSQL, as on two machines: one holds calls, and the other serves the pages."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.live.running_guard import Client
from tests.storage.postgres_server import server
from tests.web.inbox_process import free_port, prepare
from tests.web.web_process import HOST, WebScenario, make_certificate, web_process, web_section


@dataclass
class Fleet(WebScenario):
    """`config` is of the gateway that holds calls, and `other` of the one whose pages people use."""

    other: Path = Path()
    pages: ExitStack = field(default_factory=ExitStack)

    def serve_pages(self) -> str:
        """Start the process of the pages, again if it runs."""
        self.pages.close()
        return self.pages.enter_context(web_process(self.other))


@contextmanager
def fleet(folder: Path, edit: Callable[[str], str] = str, web: str = "") -> Iterator[Fleet]:
    """The example CRM. `edit` changes the text of the configuration, and `web` adds to its section `[web]`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", server().url)
        patch.setenv("SHARED_SECRET", "the same at each gateway, and long enough")
        config, port = prepare(folder), free_port()
        certificate = make_certificate(config.parent)
        text = config.read_text().replace("crm-example.local/ledger", f"crm-example.local/{folder.name}-{port}")
        text = edit(text.replace("[guard]", '[guard]\non_cancel = "withdraw"', 1))
        text += '\n[approvers.bob]\nname = "Bob"\n'
        text += '[ledger]\ndatabase = { env = "DATABASE_URL" }\nshared_secret = { env = "SHARED_SECRET" }\n'
        text += f"{web_section(port)}{web}"
        config.write_text(text)
        other = config.parent / "other.toml"
        other.write_text(text.replace('state_dir = "state"', 'state_dir = "state-of-other"'))
        with Client(config, ("--ticket", "INC-4451")) as client:
            client.start()
            client.tools()
            (folder / "state-of-other").mkdir(mode=0o700)
            shutil.copy(config.parent / "state" / "ledger.key", folder / "state-of-other")
            made = Fleet(config, f"https://{HOST}:{port}", client, certificate=certificate, other=other)
            with made.pages:
                assert made.serve_pages() == made.url
                yield made
