import json
from typing import Any

import attrs
import httpx2
import pytest
import trio

from supervisor.agent import http as http_module
from supervisor.agent.http import call, endpoint_of, open_client
from supervisor.conversation.errors import AgentRefused, AgentUnavailable
from supervisor.exchange import Answer
from supervisor.sandbox.port import Endpoint
from tests.agent.stub import KEY, PATH, SECRET, Reply, StubAgent

LINE = f"GET {PATH}"


async def get(agent: StubAgent) -> Answer:
    """Ask once."""
    async with open_client() as client:
        with trio.fail_after(5):
            return await call(client, agent.session, "GET", PATH)


async def refusal(agent: StubAgent, reply: Reply, body: dict[str, Any]) -> str:
    """What is told of a refused request."""
    agent.on(f"POST {PATH}", reply)
    async with open_client() as client:
        with pytest.raises(AgentRefused) as caught:
            await call(client, agent.session, "POST", PATH, body)
    return caught.value.body


async def test_call_sends_the_key_and_the_body(agent: StubAgent) -> None:
    """A request carries the session key as the server wants it, and its body as JSON."""
    agent.on(f"POST {PATH}", Reply(201, b"{}"))
    async with open_client() as client:
        answer = await call(client, agent.session, "POST", PATH, {"a": [1, "ü"]})
    assert answer == Answer(201, b"{}")
    assert agent.requests[0].headers["x-session-api-key"] == KEY
    assert agent.requests[0].json() == {"a": [1, "ü"]}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_call_finds_an_agent_unavailable_that_cannot_now(agent: StubAgent, status: int) -> None:
    """Asking again may help."""
    agent.on(LINE, Reply(status, b"busy"))
    with pytest.raises(AgentUnavailable, match=str(status)):
        await get(agent)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
async def test_call_is_refused_by_what_asking_again_will_not_change(agent: StubAgent, status: int) -> None:
    """The refusal carries HTTP's status and what the server says."""
    agent.on(LINE, Reply(status, b'{"detail":"no"}'))
    with pytest.raises(AgentRefused) as caught:
        await get(agent)
    assert (caught.value.status, caught.value.body) == (status, '{"detail":"no"}')


async def test_call_takes_a_redirect_for_no_answer(agent: StubAgent) -> None:
    """An agent server redirects nowhere, least of all away from its sandbox."""
    agent.on(LINE, Reply(302, raw=b"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises(AgentUnavailable, match="302"):
        await get(agent)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: minus one\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x00" * 1000,
    ],
)
async def test_call_survives_garbage(agent: StubAgent, raw: bytes) -> None:
    """What is no HTTP is no answer."""
    agent.on(LINE, Reply(raw=raw))
    with pytest.raises(AgentUnavailable):
        await get(agent)


async def test_call_does_not_unpack_what_claims_to_be_compressed(agent: StubAgent) -> None:
    """A body is taken as it comes: nothing can swell in our memory."""
    agent.on(LINE, Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"))
    assert (await get(agent)).body == b"abc"
    assert agent.requests[0].headers["accept-encoding"] == "identity"


async def test_call_bounds_the_answer(agent: StubAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless answer ends at the bound."""
    monkeypatch.setattr(http_module, "_MOST_BYTES", 100)
    agent.on(LINE, Reply(body=b"x" * 101, hang=True))
    with pytest.raises(AgentUnavailable, match="longer than 100 bytes"):
        await get(agent)


async def test_call_ends_with_its_callers_deadline(agent: StubAgent) -> None:
    """A server that hangs in the middle of its answer is left by cancellation."""
    agent.on(LINE, Reply(body=b"x", hang=True))
    async with open_client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(call, client, agent.session, "GET", PATH)
        await agent.asked(LINE)
        nursery.cancel_scope.cancel()


async def test_call_finds_a_server_unavailable_where_nothing_listens(agent: StubAgent) -> None:
    """A refused connection is no answer."""
    session = attrs.evolve(agent.session, published=Endpoint("::1", 1))
    async with open_client() as client:
        with pytest.raises(AgentUnavailable, match="does not answer"):
            await call(client, session, "GET", PATH)


async def test_call_accepts_the_statuses_that_its_caller_names(agent: StubAgent) -> None:
    """Such a status is an answer."""
    agent.on(LINE, Reply(409))
    async with open_client() as client:
        answer = await call(client, agent.session, "GET", PATH, accept=frozenset({409}))
    assert answer.status == 409


async def test_refusal_tells_no_secret_of_the_request(agent: StubAgent) -> None:
    """A server that quotes what it refuses does not get our secrets into the log, however they are spelled."""
    secret = 'sk-"ü"-12345'
    body = {
        "llm": {"api_key": secret, "model": "gpt"},
        "secrets": {"GITHUB": [{"value": "ghp_678"}]},
        "names": ["plain"],
        "flag": True,
    }
    said = json.dumps({"input": body, "plain": secret}, ensure_ascii=False) + json.dumps(body) + secret + KEY + SECRET
    told = await refusal(agent, Reply(422, said.encode()), body)
    assert "gpt" in told
    assert "plain" in told
    for hidden in ("12345", "ghp_678", KEY, SECRET):
        assert hidden not in told


async def test_refusal_keeps_words_apart_from_very_short_secrets(agent: StubAgent) -> None:
    """A placeholder like `k` for a key is no secret, and its removal would make every message unreadable."""
    assert await refusal(agent, Reply(400, b"ok, back"), {"api_key": "k"}) == "ok, back"


async def test_refusal_is_cut_after_its_secrets_are_gone(agent: StubAgent) -> None:
    """The cut cannot leave half a secret."""
    told = await refusal(agent, Reply(400, b"x" * 1995 + KEY.encode() + b"y" * 5000), {})
    assert told == "x" * 1995 + "***yy"


def test_endpoint_of_a_sandbox_without_a_port_is_refused() -> None:
    """An agent server needs a port: that will not heal."""
    with pytest.raises(AgentRefused, match="no port"):
        endpoint_of(attrs.evolve(StubAgent().session, published=None))


def test_endpoint_of_prefers_the_direct_one() -> None:
    """A published port is anybody's who takes it once its sandbox is dead: it is for engines that hide the rest."""
    published, direct = Endpoint("127.0.0.1", 1), Endpoint("172.17.0.2", 8000)
    assert endpoint_of(attrs.evolve(StubAgent().session, published=published, direct=direct)) is direct
    assert endpoint_of(attrs.evolve(StubAgent().session, published=published, direct=None)) is published


async def test_client_ignores_the_daemons_proxy_environment(agent: StubAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sandboxes are on this host: no proxy is asked for them."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    agent.on(LINE, Reply())
    assert (await get(agent)).status == httpx2.codes.OK
