"""A real nginx for tests: on loopback, with its files in a folder of the test, and a certificate of its own."""

import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2 as httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from tests.live.test_session import eventually

HOST = "guard.example.com"
SYSTEM_PATH = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for `HOST` and localhost, and its key."""

    path: Path
    key: Path

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.path))


def make_certificate(folder: Path) -> Certificate:
    key = generate_private_key(SECP256R1())
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)]), datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(HOST), x509.DNSName("localhost")])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    made.path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made.key.write_bytes(private)
    return made


def needs(program: str, remedy: str = "") -> str:
    """The path of a program of the system; without it, the test is skipped."""
    path = shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        pytest.skip(f"{program} is not installed{remedy}")
    return path


def needs_nginx() -> str:
    return needs("nginx", ": `make nginx` installs it from Debian's packages")


def write_nginx(folder: Path, site: str, certificate: Certificate) -> list[str]:
    """Put a site, which belongs into the `http` block, into a configuration; returns the command that runs it."""
    for name, path in (("certificate", certificate.path), ("certificate_key", certificate.key)):
        site = re.sub(rf"(ssl_{name}\s+)\S+;", rf"\g<1>{path};", site)
    logs = f"pid {folder}/pid; error_log stderr; daemon off; master_process off;"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(f"{logs} events {{}} http {{ access_log off; {temporary}\n{site}\n}}")
    return [needs_nginx(), "-p", str(folder), "-c", str(config)]


@contextmanager
def proxy_running(words: Sequence[str], port: int, certificate: Certificate) -> Iterator[httpx.Client]:
    """The proxy, and a client of it that asks for the guard's public name."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            with httpx.Client(
                base_url=f"https://localhost:{port}",
                verify=certificate.trust(),
                trust_env=False,
                timeout=60,
                headers={"host": HOST},
            ) as client:
                _await_listening(client, process)
                yield client
        finally:
            process.terminate()


def _await_listening(client: httpx.Client, process: "subprocess.Popen[str]") -> None:
    def answers() -> bool:
        try:
            return bool(client.get("/").status_code)
        except httpx.TransportError:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            return False

    eventually(answers)
