"""Which proxy and which certificates are used, by settings and environment; and that every client is made there."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.errors import ConfigError
from mcp_guard.network import Network, Proxy, resolve
from mcp_guard.settings import NetworkSettings, SecretReference

PACKAGE = Path(__file__).parent.parent / "mcp_guard"
PROXY = Proxy("http://proxy:3128", "HTTPS_PROXY")


def found(environment: dict[str, str], settings: NetworkSettings | None = None) -> Network:
    return resolve(settings or NetworkSettings(), environment, lambda reference: f"http://u:{reference.name}@p:1")


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("corp.example", "https://corp.example/x", True),
        ("corp.example", "https://a.b.corp.example/x", True),
        (".corp.example", "https://corp.example", True),
        ("*.corp.example", "https://a.CORP.example.", True),
        ("corp.example", "https://notcorp.example", False),
        ("corp.example:8443", "https://corp.example:8443", True),
        ("corp.example:8443", "https://corp.example", False),
        ("corp.example:443", "https://corp.example", True),
        ("*", "https://anything.example", True),
        (" a.example ,, b.example ", "https://b.example", True),
        ("a.example b.example", "https://b.example", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.0.0.0/8", "https://10.example", False),
        ("10.1.2.3", "https://10.1.2.3:9", True),
        ("0.1", "https://10.1.0.1", False),
        ("fd00::/8", "https://[fd12::1]/", True),
        ("fd12::1", "https://[fd12::1]/", True),
        ("[fd12::1]:443", "https://[fd12::1]/", True),
        ("[fd12::1]:444", "https://[fd12::1]/", False),
        ("10.0.0.0/99", "https://10.0.0.1", False),
        ("", "https://localhost:1/", True),
        ("", "https://127.9.9.9/", True),
        ("", "https://[::1]/", True),
        ("", "https://[::ffff:127.0.0.1]/", True),
        ("", "https://app.localhost./", True),
        ("", "https://localhost.example/", False),
        ("", "https://127.example/", False),
    ],
)
def test_no_proxy_covers_hosts_as_curl_and_go_read_it(no_proxy: str, url: str, is_direct: bool) -> None:
    network = found({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": no_proxy})
    assert (network.find_proxy(url) is None) == is_direct


@given(st.text(max_size=40), st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True))
def test_no_text_in_no_proxy_is_an_error(no_proxy: str, host: str) -> None:
    assert found({"HTTPS_PROXY": "proxy", "NO_PROXY": no_proxy}).find_proxy(f"https://{host}/") in (
        None,
        Proxy("http://proxy", "HTTPS_PROXY"),
    )


@pytest.mark.parametrize(
    ("environment", "scheme", "url"),
    [
        ({"HTTPS_PROXY": "proxy:3128"}, "https", "http://proxy:3128"),
        ({"HTTPS_PROXY": "proxy:3128"}, "http", ""),
        ({"HTTPS_PROXY": "a:1", "https_proxy": "b:2"}, "https", "http://b:2"),
        ({"HTTPS_PROXY": "a:1", "https_proxy": ""}, "https", ""),
        ({"ALL_PROXY": "http://a:1", "https_proxy": ""}, "https", "http://a:1"),
        ({"all_proxy": "socks5h://a:1", "https_proxy": "http://b"}, "https", "http://b"),
        ({"HTTP_PROXY": "http://a:1", "REQUEST_METHOD": "GET"}, "http", ""),
        ({"HTTPS_PROXY": "https://[fd00::1]:3128/"}, "https", "https://[fd00::1]:3128"),
    ],
)
def test_proxy_is_that_of_the_scheme_small_letters_first(environment: dict[str, str], scheme: str, url: str) -> None:
    proxy = found(environment).find_proxy(f"{scheme}://far.example/")
    assert (proxy.url if proxy else "") == url


def test_settings_come_before_the_environment() -> None:
    environment = {"HTTPS_PROXY": "http://a:1", "NO_PROXY": "far.example", "SSL_CERT_FILE": "/a.pem"}
    settings = NetworkSettings(proxy=SecretReference("env", "p%40ss"), no_proxy=())
    network = found(environment, settings)
    proxy = network.find_proxy("https://far.example/")
    assert proxy == Proxy("http://p:1", "network.proxy", ("u", "p@ss"))
    assert network.secrets == ("p@ss",)
    assert "p@ss" not in f"{network!r}{proxy}"
    assert found(environment, NetworkSettings(reads_environment=False)) == Network()


@pytest.mark.parametrize(
    "value", ["http://u:secret-p@ss:word@[x", "http://", "ftp://u:secret@x", "http://u:secret@x:port"]
)
def test_malformed_proxy_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY is not a URL") as refused:
        found({"HTTPS_PROXY": value})
    assert "secret" not in f"{refused.value}{refused.value.hint}"


MAKES_A_CLIENT = re.compile(
    r"\b(AsyncClient|httpx2?\.Client|ClientSession|HTTPTransport|AsyncHTTPTransport|urlopen|build_opener)\("
    r"|\bhttpx\.(get|post|put|request|stream)\(|import (urllib\.request|http\.client|requests|aiohttp|urllib3)\b"
    r"|create_default_context\("
)


def test_every_http_client_is_made_in_one_module() -> None:
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if MAKES_A_CLIENT.search(path.read_text())
    }
    found.remove("diagnostics/pages.py")  # asks what a browser elsewhere would, and looks at the certificate
    assert found == {"network.py"}, "make clients with `Network.async_client` or `Network.client`"
