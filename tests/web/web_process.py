"""The pages at a real origin: `mcp-guard web` behind TLS with a certificate of a test's own, at a loopback name.

`https://guard.localtest.example:PORT` leads to this machine in browsers that `browser_at` starts, and in `WebClient`.
"""

import base64
import datetime
import hashlib
import ipaddress
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from playwright.sync_api import Browser

from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import Client
from tests.web.inbox_process import SHELL, InboxScenario, browser, free_port, prepare

HOST = "guard.localtest.example"


@dataclass(frozen=True)
class OwnCertificate:
    """A self-signed certificate for `HOST`, in files `web.crt` and `web.key`."""

    folder: Path
    fingerprint: str
    """Base64 of the SHA-256 of its public key (SPKI)."""

    @property
    def context(self) -> ssl.SSLContext:
        """For clients that trust it, and nothing else."""
        return ssl.create_default_context(cafile=str(self.folder / "web.crt"))


def make_certificate(folder: Path, days: int = 2, host: str = HOST) -> OwnCertificate:
    """In this folder, valid from yesterday for so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days - 1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "web.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "web.key").touch(mode=0o600)
    (folder / "web.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return OwnCertificate(folder, base64.b64encode(hashlib.sha256(spki).digest()).decode())


@dataclass
class WebScenario(InboxScenario):
    """A guard with an agent's client, and the pages at `url`."""

    certificate: OwnCertificate | None = None


@contextmanager
def web_scenario(folder: Path, edit: Callable[[str], str] = str, web: str = "") -> Iterator[WebScenario]:
    """The example CRM. `edit` changes the text of the configuration, and `web` adds to its section `[web]`."""
    config, port = prepare(folder), free_port()
    certificate = make_certificate(config.parent)
    text = edit(config.read_text().replace("[guard]", '[guard]\non_cancel = "withdraw"', 1))
    config.write_text(f"{text}\n{web_section(port)}{web}")
    with web_process(config) as url, Client(config, ("--ticket", "INC-4451")) as client:
        client.start()
        client.tools()
        yield WebScenario(config, url, client, certificate=certificate)


def web_section(port: int) -> str:
    return (
        f'[web]\nurl = "https://{HOST}:{port}"\nlisten = "127.0.0.1:{port}"\ncertificate = "web.crt"\nkey = "web.key"\n'
    )


@contextmanager
def web_process(config: Path) -> Iterator[str]:
    """Runs `mcp-guard web` of this configuration; yields the URL of its pages."""
    process = Forked(["web", "--config", str(config), "--json"], stdout=PIPE, text=True)
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def browser_at(*certificates: OwnCertificate, program: str = SHELL) -> AbstractContextManager[Browser]:
    """Chromium, for which `HOST` is this machine and these certificates are valid."""
    fingerprints = ",".join(certificate.fingerprint for certificate in certificates)
    trusting = f"--ignore-certificate-errors-spki-list={fingerprints}"
    return browser(program, trusting, f"--host-resolver-rules=MAP {HOST} 127.0.0.1")
