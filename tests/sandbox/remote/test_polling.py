"""The watch: one request for all, paced by what changes; the request's times are simulated."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.remote import RemoteProvider
from tests.sandbox.remote.scripted_host import C1, NAME, PLAN, ScriptedHost, lists, runtime, says, shows

LIST = "GET /list"


@attrs.define
class Heard:
    """Remembers what it hears, in order."""

    words: list[str] = attrs.field(factory=list)

    def engine_connected(self) -> None:
        """See `EngineObserver`."""
        self.words.append("connected")

    def engine_lost(self, reason: str) -> None:
        """See `EngineObserver`."""
        self.words.append(f"lost: {reason}")

    def sandbox_changed(self, conversation: ConversationId) -> None:
        """See `EngineObserver`."""
        self.words.append(conversation)


@asynccontextmanager
async def watched(provider: RemoteProvider) -> AsyncIterator[list[str]]:
    """What is heard while the host is watched."""
    heard = Heard()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(provider.watch, heard)
        yield heard.words
        nursery.cancel_scope.cancel()


async def test_quiet_host_is_asked_seldom(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Every five seconds or so, once what has moved at first is settled."""
    host.on(LIST, lists(runtime()))
    async with watched(provider) as heard:
        await trio.sleep(600)
    assert heard == ["connected"]
    assert 100 < host.count(LIST) < 140


async def test_change_of_ours_is_looked_at_soon(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Within some hundred milliseconds, in the middle of a long quiet."""
    host.on(LIST, lists())
    host.on("POST /start", shows())
    async with watched(provider) as heard:
        await trio.sleep(60)
        host.on(LIST, lists(runtime()))
        before = host.count(LIST)
        await provider.launch(PLAN)
        await trio.sleep(0.3)
        assert 2 <= host.count(LIST) - before <= 4
        assert heard == ["connected", C1]


async def test_pending_sandbox_is_looked_at_every_second(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Until it is ready: that is heard of soon after."""
    host.on(LIST, lists(runtime(pod_status="pending")))
    async with watched(provider) as heard:
        await trio.sleep(60)
        assert 60 <= host.count(LIST) <= 66
        host.on(LIST, lists(runtime()))
        await trio.sleep(1.1)
        assert heard == ["connected", C1]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "paused"},
        {"pod_status": "restarting"},
        {"url": "https://other.example"},
        {"session_api_key": "another"},
        {"restart_count": 1},
        {"session_id": "conversationd-76543210-c1-1"},
    ],
)
async def test_whatever_differs_is_told(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock, change: dict[str, object]
) -> None:
    """Once; what belongs to others, and what is gone, count as missing."""
    host.on(LIST, lists(runtime()))
    async with watched(provider) as heard:
        await trio.sleep(60)
        host.on(LIST, lists(runtime(**change)))
        await trio.sleep(60)
    assert heard == ["connected", C1]


async def test_thousand_sandboxes_are_one_request(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """And only those are told that differ."""
    many = [runtime(session_id=f"conversationd-01234567-c{number}-1") for number in range(1000)]
    host.on(LIST, lists(*many))
    async with watched(provider) as heard:
        await trio.sleep(60)
        host.on(LIST, lists(*many[:-1], {**many[-1], "pod_status": "failed"}))
        await trio.sleep(6.5)
    assert heard == ["connected", "c999"]
    assert len(host.asked) < 30
    assert set(host.asked) == {LIST}


async def test_failure_that_passes_is_not_told(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Two in a row are an accident."""
    host.on(LIST, lists(), says({}, 503), says({}, 500), lists())
    async with watched(provider) as heard:
        await trio.sleep(60)
    assert heard == ["connected"]


async def test_failure_that_persists_is_a_lost_engine_until_it_answers(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Told once, with words, and over with the first answer; nothing is told of single sandboxes then."""
    host.on(LIST, lists(runtime()))
    async with watched(provider) as heard:
        await trio.sleep(60)
        host.on(LIST, says({"detail": "no"}, 401))
        await trio.sleep(600)
        assert heard[0] == "connected"
        assert [word for word in heard[1:] if "the key is refused" in word] == heard[1:]
        assert len(heard) == 2
        host.on(LIST, lists(runtime(status="paused")))
        await trio.sleep(6)
        assert heard[2:] == ["connected"]


async def test_host_that_wants_to_be_left_alone_is(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """It is not asked before the time that it says, whoever changes something meanwhile."""
    host.on(LIST, says({}, 429, Retry_After="30"), lists())
    host.on(f"GET /sessions/{NAME}", shows())
    host.on("POST /stop", shows())
    async with watched(provider):
        await trio.sleep(1)
        await provider.kill(NAME)
        await trio.sleep(28)
        assert host.count(LIST) == 1
        await trio.sleep(2)
        assert host.count(LIST) > 1
