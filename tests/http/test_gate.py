"""The gate: who is let in, and what the others are told."""

import httpx2 as httpx
import pytest
import trio

from supervisor.control.address import TcpAddress
from supervisor.http.connection import HttpLimits
from tests.control.clients import dial, eventually, exchange
from tests.http.clients import KEY, PATIENCE, Running, error_of, http_client

PAGE = "https://good.example"


@pytest.fixture
def limits() -> HttpLimits:
    """Bodies of little size and patience."""
    return HttpLimits(body=0.5, body_size=256 * 1024, linger=0.2)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"X-Session-API-Key": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
        {"X-API-Key": "another-key-of-the-tests"},
        {"X-API-Key": "wrong", "X-Session-API-Key": KEY},
    ],
)
async def test_any_key_in_any_of_its_headers_is_let_in(running: Running, headers: dict[str, str]) -> None:
    """Clients of several systems show it where they always did."""
    async with http_client(running.address, None) as client:
        assert (await client.get("/conversations/c1", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": KEY[:-1]},
        {"X-Session-API-Key": KEY + "x"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Cookie": f"X-API-Key={KEY}"},
    ],
)
async def test_without_a_key_nothing_is_told(running: Running, headers: dict[str, str]) -> None:
    """401 for everything, so that not even what there is can be learned; a key in the URL is none."""
    async with http_client(running.address, None) as client:
        for target in ("/conversations/c1", "/openapi.json", "/nothing", "/api/events"):
            answer = await client.get(target, headers=headers, params={"api_key": KEY, "X-API-Key": KEY})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert error_of(answer)["code"] == "unauthorized"
    assert running.service.calls == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "", "proxy.example"])
async def test_wrong_host_is_refused_whatever_the_key(running: Running, host: str) -> None:
    """A page whose name was made to point here says so by its `Host`."""
    async with http_client(running.address) as client:
        answer = await client.get("/conversations/c1", headers={"Host": host})
    assert (answer.status_code, error_of(answer)["code"]) == (403, "forbidden")
    assert running.service.calls == []


async def test_own_names_and_allowed_hosts_are_let_in(running: Running) -> None:
    """`localhost` is ours as well as the address, and a proxy's name is what the config says."""
    assert isinstance(running.address, TcpAddress)
    async with http_client(running.address) as client:
        for host in (f"localhost:{running.address.port}", f"LOCALHOST:{running.address.port}", "proxy.example:8443"):
            assert (await client.get("/conversations/c1", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://good.example.evil.example", ""])
async def test_page_of_another_origin_is_refused_whatever_the_key(running: Running, origin: str) -> None:
    """It gets no header that lets it read, and nothing is done for it, preflight or not."""
    async with http_client(running.address) as client:
        for method in ("GET", "POST", "OPTIONS"):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = await client.request(method, "/conversations", headers=asked)
            assert (answer.status_code, error_of(answer)["code"]) == (403, "forbidden")
            assert "access-control-allow-origin" not in answer.headers
    assert running.service.calls == []


async def test_page_of_an_allowed_origin_may_ask_and_read(running: Running) -> None:
    """Its browser asks first, without a key; then it asks, with one, and may read refusals, too."""
    async with http_client(running.address, None, Origin=PAGE) as client:
        asked = await client.options(
            "/conversations/c1",
            headers={"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "x-api-key"},
        )
        assert (asked.status_code, asked.content) == (204, b"")
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert "DELETE" in asked.headers["access-control-allow-methods"]
        assert "X-API-Key" in asked.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in asked.headers
        for headers, status in (({}, 401), ({"X-API-Key": KEY}, 200)):
            answer = await client.get("/conversations/c1", headers=headers)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, PAGE)
            assert answer.headers["vary"] == "Origin"


async def test_options_that_no_browser_asks_needs_a_key(running: Running) -> None:
    """Only a preflight is answered without one."""
    async with http_client(running.address, None) as client:
        assert (await client.options("/conversations")).status_code == 401
        assert (await client.options("/conversations", headers={"Origin": PAGE})).status_code == 401


async def test_body_that_is_too_large_is_refused(client: httpx.AsyncClient, running: Running) -> None:
    """With its answer, though the client is still sending; the next request is served."""
    answer = await client.post("/conversations", content=b"x" * 5_000_000)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "too_large")
    assert (await client.get("/conversations/c1")).status_code == 200
    assert [call[0] for call in running.service.calls] == ["get", "connect"]


async def test_body_that_does_not_come_is_not_waited_for(running: Running) -> None:
    """A client that promises a body and sends none is told, and let go."""
    assert isinstance(running.address, TcpAddress)
    request = (
        f"POST /conversations HTTP/1.1\r\nHost: {running.address.authority}\r\nX-API-Key: {KEY}\r\n"
        "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
    )
    answer = await exchange(running.address, request.encode())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert running.service.calls == []


async def test_client_that_goes_away_in_its_body_is_forgotten(running: Running) -> None:
    """Half a request is none."""
    assert isinstance(running.address, TcpAddress)
    with trio.fail_after(PATIENCE):
        async with await dial(running.address) as stream:
            await stream.send_all(
                f"POST /conversations HTTP/1.1\r\nHost: {running.address.authority}\r\nX-API-Key: {KEY}\r\n"
                "Content-Length: 10\r\n\r\n{".encode()
            )
            await eventually(lambda: running.server.connections == 1)
    await eventually(lambda: running.server.connections == 0)
    assert running.service.calls == []
