"""Lazily loaded modules are complete on first use, from any thread, and asyncio can use TLS with them."""

import datetime
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

BEGINS = """
import sys
from mcp_guard.cli.late import LATE, load_late
clean = [name for name in LATE if name in sys.modules]
assert not clean, clean
load_late()
"""

THREADS = """
import sys
from threading import Barrier, Thread
sys.setswitchinterval(1e-6)  # so that threads are in each others' way as much as they can
import ipaddress, inspect, ssl
assert all("__builtins__" not in vars(module) for module in (ipaddress, inspect, ssl))
together, said = Barrier(8), []
def ask():
    together.wait()
    checks = ssl.create_default_context().check_hostname
    said.append((ipaddress.ip_address("::1").is_loopback, inspect.isclass(dict), checks))
threads = [Thread(target=ask) for _ in range(8)]
[each.start() for each in threads], [each.join() for each in threads]
assert said == [(True, True, True)] * 8, said
try:
    ssl.no_such_name
except AttributeError as error:
    print(error)
"""

TLS = """
import asyncio, ssl
async def main(folder):
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(folder + "/cert.pem")
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=ours)
    theirs = ssl.create_default_context(cafile=folder + "/cert.pem")
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=theirs, server_hostname="localhost")
    writer.write(b"over tls\\n")
    print((await reader.readline()).decode().strip())
    writer.close()
    server.close()
asyncio.run(main(sys.argv[1]))
"""


def run(code: str, *arguments: str) -> str:
    """Run the code in its own interpreter, without the modules that coverage loads."""
    done = subprocess.run([sys.executable, "-c", BEGINS + code, *arguments], env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_certificate(path: Path) -> None:
    """A key and its self-signed certificate for `localhost`."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now).not_valid_after(now + datetime.timedelta(hours=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def test_concurrent_threads_get_a_complete_module() -> None:
    assert run(THREADS) == "module 'ssl' has no attribute 'no_such_name'"


def test_asyncio_supports_tls_after_late_loading(tmp_path: Path) -> None:
    write_certificate(tmp_path / "cert.pem")
    assert run(TLS, str(tmp_path)) == "OVER TLS"
