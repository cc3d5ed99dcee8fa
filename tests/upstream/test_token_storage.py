"""Where sign-ins are kept: one process at a time has them, and what is in a database is sealed."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest

from mcp_guard.core.people import Identity
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.network import Network
from mcp_guard.settings import OAuthGrant, OAuthSettings
from mcp_guard.shared_secret import SharedSecret
from mcp_guard.storage.engines import find_engine, open_store
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.sign_ins import MAX_HELD, MAX_READ, SignInsTable
from mcp_guard.upstream.oauth.discovery import NoToken
from mcp_guard.upstream.oauth.shared_tokens import SharedTokenStorage
from mcp_guard.upstream.oauth.token_endpoint import ClientCredentials
from mcp_guard.upstream.oauth.token_storage import FileTokenStorage, Tokens, TokenStorage
from mcp_guard.upstream.oauth.tokens import OAuthTokenProvider
from tests.storage.contract.engines import postgres
from tests.storage.postgres_server import server

TOKENS = Tokens("access-canary", "refresh-canary", 12.5, "https://auth.example/token", scope="a b")
SECRET = SharedSecret("s" * 32, "sign-ins.example")


@dataclass(frozen=True, slots=True)
class Ledger:
    """A ledger in a database."""

    database: Database

    def storage(self, name: str = "far", secret: SharedSecret = SECRET) -> TokenStorage:
        """As another process has it."""
        sign_ins = find_engine(self.database).open_sign_ins(Path())
        return SharedTokenStorage(sign_ins, name, secret)

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        with closing(psycopg.connect(server().url, autocommit=True)) as connection:
            schema = f'"mcp-guard {self.database.origin}"'
            connection.execute(f"SET search_path = {schema}".encode())
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

    def disconnect(self) -> None:
        """Whoever is connected."""
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    place = postgres(tmp_path).place
    assert isinstance(place, Database)
    database = Database(place.url, place.origin[:40])
    open_store(database, unsafe_skip_fsync=True).close()
    return Ledger(database)


ANN, PAGE = Identity("https://login.example", "ann"), "https://guard.example/upstreams"


def of_user(folder: Path, user: Identity = ANN, name: str = "far", secret: SharedSecret = SECRET) -> TokenStorage:
    """Beside a ledger that is a file."""
    return SharedTokenStorage(find_engine(folder / "ledger.sqlite").open_sign_ins(folder), name, secret, user, PAGE)


@pytest.fixture(params=["files", "files of users", "database", "database of users"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], TokenStorage]:
    """Makes the storage of another process."""
    if request.param == "files":
        return lambda: FileTokenStorage(tmp_path / "sign-ins", "far")
    if request.param == "files of users":
        return lambda: of_user(tmp_path)
    ledger: Ledger = request.getfixturevalue("ledger")
    if request.param == "database":
        return ledger.storage
    sign_ins = find_engine(ledger.database).open_sign_ins(tmp_path)
    return lambda: SharedTokenStorage(sign_ins, "far", SECRET, ANN, PAGE)


async def stored(storage: TokenStorage) -> Tokens | None:
    async with storage.locked() as held:
        return await held.read()


async def store(storage: TokenStorage, tokens: Tokens = TOKENS) -> None:
    async with storage.locked() as held:
        await held.write(tokens)


async def test_tokens_are_kept_for_others_and_removed(storage: Callable[[], TokenStorage]) -> None:
    assert await stored(storage()) is None
    for tokens in (TOKENS, replace(TOKENS, access="second")):
        await store(storage(), tokens)
        assert await stored(storage()) == tokens
    for was_signed_in in (True, False):
        async with storage().locked() as held:
            assert await held.remove() is was_signed_in
    assert await stored(storage()) is None
    await store(storage())
    assert await stored(storage()) == TOKENS


async def test_one_process_at_a_time_has_them(storage: Callable[[], TokenStorage]) -> None:
    """Each takes what it finds and leaves the next, as with refresh tokens that work once."""
    await store(storage(), replace(TOKENS, refresh="0"))
    used: list[str] = []

    async def refresh(storage: TokenStorage) -> None:
        async with storage.locked() as held:
            found = await held.read()
            assert found is not None
            used.append(found.refresh)
            await asyncio.sleep(0)
            await held.write(replace(found, refresh=str(int(found.refresh) + 1)))

    one = storage()
    await asyncio.gather(*(refresh(each) for each in (one, one, storage(), storage(), storage())))
    assert used == ["0", "1", "2", "3", "4"]


async def test_who_only_looks_does_not_wait_for_who_refreshes(storage: Callable[[], TokenStorage]) -> None:
    assert await storage().look() is None
    await store(storage())
    async with storage().locked():
        assert await asyncio.wait_for(storage().look(), 20) == TOKENS


@pytest.mark.parametrize("kind", ["files", "files of users"])
async def test_a_folder_that_cannot_be_used_means_no_token(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "sign-ins"
    storage = FileTokenStorage(folder, "far") if kind == "files" else of_user(tmp_path)
    folder.write_text("a file where the folder should be")
    with pytest.raises(NoToken, match=r"File exists|cannot be used"):
        await stored(storage)
    folder.unlink()
    await store(storage)
    [lock] = folder.glob("*.lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(NoToken, match=r"Is a directory|cannot be used"):
        await stored(storage)


async def test_a_sign_in_that_cannot_be_removed_is_reported(tmp_path: Path) -> None:
    storage = FileTokenStorage(tmp_path / "sign-ins", "far")
    async with storage.locked() as held:
        await held.write(TOKENS)
        (storage.folder / ".far.json.draft").mkdir()
        with pytest.raises(NoToken, match="cannot be removed: Is a directory"):
            await held.remove()


async def test_many_who_wait_leave_threads_to_who_has_the_lock(tmp_path: Path) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    for storage in (FileTokenStorage(tmp_path / "sign-ins", "far"), of_user(tmp_path)):
        assert await asyncio.wait_for(asyncio.gather(*(stored(storage) for _ in range(5))), 20) == [None] * 5
        waiting = asyncio.create_task(stored(storage))
        async with storage.locked():
            await asyncio.sleep(0)
            waiting.cancel()
        assert await asyncio.wait_for(stored(storage), 20) is None


async def test_what_is_in_the_database_is_sealed_for_its_upstream_and_its_gateways(ledger: Ledger) -> None:
    await store(ledger.storage())
    [(sealed,)] = ledger.sql("SELECT sealed FROM upstream_sign_in")
    assert isinstance(sealed, bytes)
    assert b"canary" not in sealed
    with pytest.raises(NoToken, match="sealed with another"):
        await stored(ledger.storage(secret=replace(SECRET, secret="x" * 32)))
    with pytest.raises(NoToken, match="sealed with another"):
        await stored(ledger.storage(secret=replace(SECRET, origin="other.example")))
    ledger.sql("UPDATE upstream_sign_in SET upstream = 'near'")
    with pytest.raises(NoToken, match="was changed; mcp-guard upstreams login near"):
        await stored(ledger.storage("near"))
    await store(ledger.storage("near"))
    assert await stored(ledger.storage("near")) == TOKENS


async def test_what_a_user_keeps_is_sealed_for_them_and_their_upstream(tmp_path: Path) -> None:
    await store(of_user(tmp_path))
    [sealed] = (tmp_path / "sign-ins").glob("far.*.sealed")
    assert sealed.stat().st_mode & 0o777 == 0o600
    assert b"canary" not in sealed.read_bytes()
    others = (Identity("https://login.example", "bob"), "far"), (Identity("", "ann"), "far"), (ANN, "near")
    for user, name in others:
        storage = of_user(tmp_path, user, name)
        assert await stored(storage) is None
        await store(storage)
        [own] = {*(tmp_path / "sign-ins").glob("*.sealed")} - {sealed}
        own.write_bytes(sealed.read_bytes())
        with pytest.raises(NoToken, match=f"was changed; sign in at {PAGE}"):
            await stored(storage)
        own.unlink()
    with pytest.raises(NoToken, match="sealed with another"):
        await stored(of_user(tmp_path, secret=replace(SECRET, secret="x" * 32)))


async def test_new_tokens_are_stored_although_the_connection_was_lost(ledger: Ledger) -> None:
    async with ledger.storage().locked() as held:
        await held.read()
        ledger.disconnect()
        await held.write(TOKENS)
    assert await stored(ledger.storage()) == TOKENS


async def test_locks_of_users_who_are_gone_are_forgotten(ledger: Ledger) -> None:
    sign_ins = find_engine(ledger.database).open_sign_ins(Path())
    assert isinstance(sign_ins, SignInsTable)
    for number in range(3):
        async with sign_ins.locked(f"far/{number}"):
            assert [*sign_ins._locks] == [f"far/{number}"]
    gc.collect()
    assert not sign_ins._locks


async def test_a_gateway_that_lost_the_lock_does_not_replace_what_another_has_stored(ledger: Ledger) -> None:
    async def overtaken() -> None:
        async with ledger.storage().locked() as held:
            await held.read()
            ledger.disconnect()
            await store(ledger.storage(), replace(TOKENS, access="newer"))
            await held.write(TOKENS)

    with pytest.raises(NoToken, match="another process has changed the sign-in to `far` meanwhile"):
        await overtaken()
    found = await stored(ledger.storage())
    assert found is not None
    assert found.access == "newer"


async def test_many_users_take_few_connections_and_those_of_one_upstream_leave_some_to_others(ledger: Ledger) -> None:
    sign_ins = find_engine(ledger.database).open_sign_ins(Path())
    entered, answered = asyncio.Queue[str](), asyncio.Event()

    def of(name: str, number: int) -> TokenStorage:
        return SharedTokenStorage(sign_ins, name, SECRET, Identity("https://login.example", f"user{number}"), PAGE)

    async def refresh(name: str, number: int) -> None:
        """As while a token endpoint is waited for."""
        async with of(name, number).locked():
            entered.put_nowait(name)
            await answered.wait()

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for name in ("far", "near", "other"):
            for number in range(9):
                tasks.create_task(refresh(name, number))
            if name != "other":
                assert [await entered.get() for _ in range(2)] == [name] * 2
        assert await asyncio.gather(*(of("far", number).look() for number in range(9))) == [None] * 9
        connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mcp-guard'"
        assert ledger.sql(connected) == [(MAX_HELD,)]
        answered.set()


async def test_many_who_only_look_take_few_connections(ledger: Ledger) -> None:
    sign_ins = find_engine(ledger.database).open_sign_ins(Path())
    assert isinstance(sign_ins, SignInsTable)
    storage = SharedTokenStorage(sign_ins, "far", SECRET)
    connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mcp-guard'"
    with closing(psycopg.connect(server().url)) as other:
        other.execute(f'LOCK TABLE "mcp-guard {ledger.database.origin}".upstream_sign_in'.encode())
        looks = [asyncio.create_task(storage.look()) for _ in range(9)]
        async with asyncio.timeout(30):
            while ledger.sql(connected) < [(MAX_READ,)]:
                await asyncio.sleep(0)
        assert sign_ins._reading.locked()
        assert ledger.sql(connected) == [(MAX_READ,)]
    assert await asyncio.gather(*looks) == [None] * 9


async def test_without_a_ledger_it_says_what_to_do(ledger: Ledger) -> None:
    nowhere = Ledger(Database(ledger.database.url, "nowhere.example"))
    with pytest.raises(NoToken, match="no ledger of this origin"):
        await stored(nowhere.storage())
    unreachable = Ledger(Database("postgresql://guard@127.0.0.1:1/postgres", "nowhere.example"))
    with pytest.raises(NoToken, match="the sign-in cannot be shared: the database cannot be reached"):
        await stored(unreachable.storage())


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """Answers a refresh with the next tokens, once it may."""

    url: str
    asked: threading.Event
    may_answer: threading.Event

    def provider(self, storage: TokenStorage) -> OAuthTokenProvider:
        settings = OAuthSettings("guard", grant=OAuthGrant.AUTHORIZATION_CODE, token_url=self.url)
        return OAuthTokenProvider(
            "far", "http://far.example/mcp", settings, Network(), ClientCredentials,
            storage=storage, exchange=None, scrubber=Scrubber(),
        )  # fmt: skip


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    asked, may_answer = threading.Event(), threading.Event()

    class Rotating(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.set()
            may_answer.wait(20)
            body = b'{"access_token": "next", "expires_in": 3600, "refresh_token": "next-refresh"}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Rotating) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield TokenEndpoint(f"http://127.0.0.1:{server.server_port}/token", asked, may_answer)
        server.shutdown()


async def test_a_refresh_that_all_have_given_up_is_stored_before_the_upstream_is_closed(
    endpoint: TokenEndpoint, tmp_path: Path
) -> None:
    storage = FileTokenStorage(tmp_path, "far")
    await store(storage, replace(TOKENS, token_endpoint=endpoint.url))
    provider = endpoint.provider(storage)
    waiting = [asyncio.create_task(provider.check()) for _ in range(2)]
    await asyncio.to_thread(endpoint.asked.wait, 20)
    for _ in range(3):
        for task in waiting:
            task.cancel()
        await asyncio.sleep(0)
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    endpoint.may_answer.set()
    await provider.settle()
    found = await stored(storage)
    assert found is not None
    assert found.refresh == "next-refresh"


async def test_tokens_that_cannot_be_stored_are_not_used(endpoint: TokenEndpoint, tmp_path: Path) -> None:
    """Else the next process would send the spent refresh token."""
    storage = FileTokenStorage(tmp_path, "far")
    await store(storage, replace(TOKENS, token_endpoint=endpoint.url))
    (tmp_path / ".far.json.draft").mkdir()
    endpoint.may_answer.set()
    provider = endpoint.provider(storage)
    with pytest.raises(NoToken, match="cannot be stored: Is a directory"):
        await provider.check()
    assert endpoint.asked.is_set()
    assert provider.headers() == {}
