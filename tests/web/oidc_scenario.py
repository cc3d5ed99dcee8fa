"""The pages at a real origin with an identity provider, a person's client that signs in there, and an upstream that is
called as its users: they sign in to it at the same provider, where the guard is known by its metadata document."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.preloaded_cli import DEVNULL, Forked
from tests.live.running_guard import SERVERS, Json
from tests.web.identity_provider import ALICE, SECRET, STRONG, IdentityProvider, Person, identity_provider
from tests.web.inbox_client import Answer
from tests.web.inbox_process import free_port
from tests.web.web_client import WebClient
from tests.web.web_process import WebScenario, web_scenario

ROUTE = f"""acr = ["{STRONG}"]
mfa = true
signed_in_within_seconds = 300
"""


@dataclass
class OidcScenario:
    """A guard, its pages, and the provider. `open_request` is one that stays undecided."""

    on: WebScenario
    provider: IdentityProvider
    open_request: str

    def client(self) -> "OidcPerson":
        assert self.on.certificate is not None
        return OidcPerson(WebClient(self.on.url, context=self.on.certificate.context))


@dataclass
class OidcPerson:
    """Somebody's browser: what it keeps for the guard, and for the provider."""

    web: WebClient
    there: Person = field(default_factory=Person)

    def begin(self, body: Json | None = None) -> Json:
        status, begun = self.web.post("/sign-in/oidc", body or {"to": "/"})
        assert status == 200, begun
        assert isinstance(begun, dict)
        return begun

    def finish(self, begun: Json, query: str) -> Answer:
        return self.web.post("/sign-in/oidc/finish", {"query": query, "sealed": begun["sealed"]})

    def sign_in(self, login: str = ALICE, factor: str = "one", body: Json | None = None) -> Answer:
        begun = self.begin(body)
        return self.finish(begun, self.there.sign_in(begun["url"], login, factor))


NOTES = """
[upstreams.notes]
url = "http://127.0.0.1:{at}/mcp"
[upstreams.notes.oauth]
as = "user"
grant = "authorization_code"
issuer = "{issuer}"
scope = "write"
"""


def no_edit(text: str) -> str:
    return text


@contextmanager
def oidc_scenario(
    folder: Path, edit: Callable[[str], str] = no_edit, web: str = "", oidc: str = "", also: str = ""
) -> Iterator[OidcScenario]:
    """`edit` changes the text of the configuration; `web` and `oidc` add to the sections `[web]` and `[web.oidc]`.
    `also` is another address that the provider sends browsers back to."""
    port, notes = free_port(), free_port()
    issuer = f"http://localhost:{port}"
    (folder / "client.secret").touch(mode=0o600)
    (folder / "client.secret").write_text(SECRET)
    section = f"""{web}
[web.oidc]
issuer = "{issuer}"
client_id = "guard"
client_secret = {{ file = "{folder / "client.secret"}" }}
name = "Example"
scope = "openid profile email groups"
{oidc}
[web.oidc.roles]
auditor = {{ groups = ["audit"] }}
user = {{ groups = ["staff"] }}
"""

    def edited(text: str) -> str:
        permit = '@id("notes") permit (principal, action in Action::"server:notes", resource);'
        (folder / "policies" / "notes.cedar").write_text(permit)
        own = f'\nidentities = [{{ issuer = "{issuer}", subject = "{ALICE}" }}]\n'
        text = edit(text.replace("[approvers.alice]", f"[approvers.alice]{own}", 1))
        return text + NOTES.format(at=notes, issuer=issuer)

    with web_scenario(folder, edited, section) as on, notes_server(notes, issuer, folder):
        told = f"{on.url}/sign-in/oidc/back-channel"
        redirects = [f"{on.url}/sign-in/oidc/callback", *([also] if also else [])]
        assert on.certificate is not None
        trusts = on.certificate.folder / "web.crt"
        client = {"backchannel_logout_uri": told, "redirect_uris": redirects}
        with identity_provider(on.url, port, trusts, **client) as provider:
            on.hold(deal_id="790", amount=12500.0)
            [request] = on.requests()
            yield OidcScenario(on, provider, request["id"])


@contextmanager
def notes_server(port: int, issuer: str, folder: Path) -> Iterator[None]:
    words = [str(port), issuer, str(folder)]
    process = Forked(words, script=SERVERS / "notes.py", stdout=DEVNULL, stderr=DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
