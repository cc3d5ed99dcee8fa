"""How requests leave this machine: through which proxy, with which certificates. Every HTTP client is made here.

What the configuration leaves open is taken from the variables that other programs use: `HTTPS_PROXY` and its kin,
`SSL_CERT_FILE` and its kin. Whoever sets the guard's environment is its operator. A request over https passes a proxy
in a tunnel (CONNECT, RFC 9110 §9.3.6), so that the proxy sees the host and nothing else.
"""

import functools
import ipaddress
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpx2 as httpx

from mcp_guard.core.errors import ConfigError
from mcp_guard.core.server_address import host_in_url
from mcp_guard.settings import NetworkSettings, SecretReference

REPLACING_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""CAs that are trusted instead of the system's. The last two count only without the first two."""
ADDING_VARIABLE = "NODE_EXTRA_CA_CERTS"
SCHEMES = ("http", "https")
PORTS = {"http": 80, "https": 443}
CA_HINT = "set network.ca_file or SSL_CERT_FILE to the CA's certificate"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. `url` has no credentials; `name` is the setting or variable that it comes from."""

    url: str
    name: str
    credentials: tuple[str, str] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"the proxy `{self.url}` ({self.name})"


@dataclass(frozen=True, slots=True)
class CaSource:
    """A file or a folder of certificates, and the setting or variable that names it."""

    path: str
    name: str


@dataclass(frozen=True, slots=True)
class Network:
    """The proxies by the scheme of what is requested, and the certificates. Without any: directly, the system's CAs.

    `replaced_cas` are trusted instead of the system's, `added_cas` as well.
    """

    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    no_proxy: tuple[str, ...] = ()
    proxies_loopback: bool = False
    replaced_cas: tuple[CaSource, ...] = ()
    added_cas: tuple[CaSource, ...] = ()
    client_cert: str = ""
    client_key: str = ""

    def find_proxy(self, url: str) -> Proxy | None:
        """The proxy for requests to this URL; None if they are sent directly. Raises: ValueError for no URL."""
        if not self.proxies:
            return None
        parts = urlsplit(url)
        proxy, host = self.proxies.get(parts.scheme), parts.hostname or ""
        if proxy is None or (not self.proxies_loopback and is_loopback(host)):
            return None
        port = parts.port or PORTS.get(parts.scheme, 0)
        return None if any(_excludes(pattern, host, port) for pattern in self.no_proxy) else proxy

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown: the passwords for the proxies."""
        return tuple({proxy.credentials[1]: None for proxy in self.proxies.values() if proxy.credentials})

    def ssl_context(self) -> ssl.SSLContext:
        """Raises: httpx.ConnectError if a certificate cannot be read."""
        files = [*(ca.path for ca in (*self.replaced_cas, *self.added_cas)), self.client_cert, self.client_key]
        return _ssl_context(
            self.replaced_cas, self.added_cas, self.client_cert, self.client_key, tuple(map(_changed_at, files))
        )

    def async_client(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client that follows no redirect. `options` are as in httpx: `headers`, `timeout`, `limits`."""
        limits = options.pop("limits", httpx.Limits(max_connections=None))
        return httpx.AsyncClient(
            transport=_AsyncRouter(self, limits), trust_env=False, follow_redirects=False, **options
        )

    def client(self, **options: Any) -> httpx.Client:
        """The same, for threads."""
        limits = options.pop("limits", httpx.Limits(max_connections=None))
        return httpx.Client(transport=_Router(self, limits), trust_env=False, follow_redirects=False, **options)


def resolve(
    settings: NetworkSettings, environment: Mapping[str, str], read: Callable[[SecretReference], str]
) -> Network:
    """What the settings and the environment say together. `read` reads a secret. Raises: ConfigError."""
    variables = environment if settings.reads_environment else {}
    configured = settings.proxy
    if configured is not None:
        text = read(configured) if isinstance(configured, SecretReference) else configured
        proxies = dict.fromkeys(SCHEMES, _parse_proxy(text, "network.proxy"))
    else:
        proxies = dict(_proxies_of(variables))
    no_proxy = settings.no_proxy if settings.no_proxy is not None else _split(_variable(variables, "NO_PROXY"))
    given = [CaSource(variables[name], name) for name in REPLACING_VARIABLES if variables.get(name)]
    replaced = [ca for ca in given if ca.name in REPLACING_VARIABLES[:2]] or given[:1]
    added = [CaSource(str(settings.ca_file), "network.ca_file")] if settings.ca_file else []
    if variables.get(ADDING_VARIABLE):
        added.append(CaSource(variables[ADDING_VARIABLE], ADDING_VARIABLE))
    return Network(
        proxies, no_proxy, settings.proxies_loopback, tuple(replaced), tuple(added),
        str(settings.client_cert or ""), str(settings.client_key or settings.client_cert or ""),
    )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether it is this machine (RFC 6761 §6.3; RFC 1122 §3.2.1.3)."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def redirect_target(response: httpx.Response) -> str:
    """Where a redirect leads, without its query; empty if it is none, or leads to no URL."""
    location = response.headers.get("location", "")
    if not (response.is_redirect and location):
        return ""
    try:
        parts = urlsplit(urljoin(str(response.request.url), location))
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return ""
    return f"{parts.scheme}://{host}{parts.path}"[:300] if parts.scheme in SCHEMES and host else ""


def explain(error: httpx.HTTPError) -> str:
    """An error in words that quote nothing of the request.

    Only what went wrong before anything was sent has a text of its own: other texts of the library may quote headers.
    """
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError) and str(error):
        return f"{type(error).__name__}: {error}"
    return type(error).__name__


def _proxies_of(variables: Mapping[str, str]) -> Iterator[tuple[str, Proxy]]:
    for scheme in SCHEMES:
        for name in (f"{scheme.upper()}_PROXY", "ALL_PROXY"):
            if name == "HTTP_PROXY" and "REQUEST_METHOD" in variables and "http_proxy" not in variables:
                continue  # a CGI program: the variable may be a header of a request (httpoxy, CVE-2016-5385)
            lower, upper = variables.get(name.lower()), variables.get(name)
            value = lower if lower is not None else upper or ""
            if value.strip():
                yield scheme, _parse_proxy(value.strip(), name)
                break


def _variable(variables: Mapping[str, str], name: str) -> str:
    """In small letters first, as most programs read them; an empty one there switches it off."""
    return variables.get(name.lower(), variables.get(name, ""))


def _parse_proxy(text: str, name: str) -> Proxy:
    """`name` is where it was found. Raises: ConfigError, which does not repeat the text: it may have a password."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in (*SCHEMES, "socks5", "socks5h", "socks4", "socks4a", "socks") or not host:
        hint = "use http://HOST:PORT; encode `@`, `:` and `/` in a password"
        raise ConfigError(f"the proxy in {name} is not a URL", hint)
    credentials = (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None
    return Proxy(f"{parts.scheme}://{host_in_url(host)}{f':{port}' if port else ''}", name, credentials)


def _split(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"[,\s]+", text.strip(", \t\n"))) if text.strip(", \t\n") else ()


def _excludes(pattern: str, host: str, port: int) -> bool:
    """Whether one element of NO_PROXY covers this host: `*`, a domain with or without a dot before it, an address or a
    range of addresses, each with a port or without one.
    """
    pattern, host = pattern.strip().lower(), host.rstrip(".").lower()
    if pattern in ("", "*"):
        return pattern == "*"
    address = _address(host)
    if "/" in pattern:
        return address is not None and _contains(pattern, address)
    name, colon, number = pattern.rpartition(":")
    if (colon and number.isdecimal() and ":" not in name.strip("[]")) or (pattern.startswith("[") and "]:" in pattern):
        if not number.isdecimal() or int(number) != port:
            return False
        pattern = name
    if (other := _address(pattern)) is not None or address is not None:
        return other == address
    domain = pattern.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _contains(network: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except (ValueError, TypeError):
        return False


def _changed_at(path: str) -> float:
    """When this file changed, so that a new certificate is read; 0 if it cannot be told."""
    try:
        return Path(path).stat().st_mtime if path else 0
    except OSError:
        return 0


@functools.lru_cache(maxsize=16)
def _ssl_context(
    replaced: tuple[CaSource, ...], added: tuple[CaSource, ...], cert: str, key: str, _: tuple[float, ...]
) -> ssl.SSLContext:
    """One for all clients with these files as they are now: reading the system's CAs takes a tenth of a second.

    Raises: httpx.ConnectError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if replaced else httpx.create_ssl_context(trust_env=False)
    for ca in (*replaced, *added):
        with _readable(ca.name, ca.path):
            if Path(ca.path).is_dir() or (":" in ca.path and not Path(ca.path).exists()):
                context.load_verify_locations(capath=ca.path)
            else:
                context.load_verify_locations(cafile=ca.path)
    if cert:
        with _readable("network.client_cert", cert):
            context.load_cert_chain(cert, key)
    return context


@contextmanager
def _readable(name: str, path: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError:
        raise httpx.ConnectError(f"{name}: `{path}` has no certificate in PEM, or its key does not fit") from None
    except OSError as error:
        raise httpx.ConnectError(f"{name}: cannot read `{path}`: {error.strerror}") from None


class _ProxyChoice:
    """Chooses the proxy for each request; what both kinds of routers share."""

    def __init__(self, network: Network, limits: httpx.Limits) -> None:
        self._network, self._limits = network, limits

    def _options(self, proxy: Proxy | None, scheme: str) -> dict[str, Any]:
        """For a transport. Certificates are read only if TLS needs them. Raises: httpx.ConnectError."""
        unused = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it trusts nobody
        context = self._network.ssl_context() if scheme == "https" else unused
        options: dict[str, Any] = {"verify": context, "trust_env": False, "limits": self._limits}
        if proxy is not None:
            if not proxy.url.startswith(("http:", "https:")):
                kind = urlsplit(proxy.url).scheme
                raise httpx.ConnectError(
                    f"proxies of the kind `{kind}` are not supported; use an HTTP proxy, or NO_PROXY"
                )
            proxy_context = self._network.ssl_context() if proxy.url.startswith("https:") else None
            options["proxy"] = httpx.Proxy(proxy.url, auth=proxy.credentials, ssl_context=proxy_context)
        return options


def _refuses_credentials(response: httpx.Response, proxy: Proxy | None) -> bool:
    """Whether a proxy that forwards requests refused to do so (RFC 9110 §15.5.8).

    It may be the server behind it that answers so: the request counts as sent.
    """
    return proxy is not None and response.status_code == 407


@contextmanager
def _explained(proxy: Proxy | None) -> Iterator[None]:
    """Say what failed to connect, without the text of a proxy's answer, which is not ours to repeat."""
    try:
        yield
    except httpx.ProxyError as error:
        status = re.match(r"\d{3}", str(error))
        what = f"answered CONNECT with HTTP status {status[0]}" if status else "cannot be used"
        raise httpx.ConnectError(f"{proxy} {what}") from None
    except httpx.ConnectError as error:
        hint = f"; {CA_HINT}" if _is_certificate_error(error) else ""
        through = f"through {proxy}: " if proxy else ""
        raise httpx.ConnectError(f"{through}{error}{hint}") from None
    except httpx.ConnectTimeout as error:
        raise httpx.ConnectTimeout(f"through {proxy}" if proxy else str(error)) from None


def _is_certificate_error(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


class _AsyncRouter(_ProxyChoice, httpx.AsyncBaseTransport):
    def __init__(self, network: Network, limits: httpx.Limits) -> None:
        super().__init__(network, limits)
        self._transports: dict[tuple[Proxy | None, str], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        proxy, scheme = self._network.find_proxy(str(request.url)), request.url.scheme
        with _explained(proxy):
            if (transport := self._transports.get((proxy, scheme))) is None:
                transport = httpx.AsyncHTTPTransport(**self._options(proxy, scheme))
                self._transports[proxy, scheme] = transport
            response = await transport.handle_async_request(request)
        if _refuses_credentials(response, proxy):
            await response.aclose()
            raise httpx.ProxyError(f"{proxy} answered with HTTP status 407")
        return response

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


class _Router(_ProxyChoice, httpx.BaseTransport):
    def __init__(self, network: Network, limits: httpx.Limits) -> None:
        super().__init__(network, limits)
        self._transports: dict[tuple[Proxy | None, str], httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        proxy, scheme = self._network.find_proxy(str(request.url)), request.url.scheme
        with _explained(proxy):
            if (transport := self._transports.get((proxy, scheme))) is None:
                transport = httpx.HTTPTransport(**self._options(proxy, scheme))
                self._transports[proxy, scheme] = transport
            response = transport.handle_request(request)
        if _refuses_credentials(response, proxy):
            response.close()
            raise httpx.ProxyError(f"{proxy} answered with HTTP status 407")
        return response

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()
