"""A host that starts no thread: whoever wants one is told so, and gets it when there are some again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import trio
from requests import Response
from trio._core._thread_cache import ThreadCache

from supervisor.conversation.errors import EngineUnavailable
from supervisor.sandbox.docker.client import EngineClient
from supervisor.sandbox.docker.lanes import Lane as DockerLane
from supervisor.sandbox.docker.limits import read_limit
from supervisor.sandbox.process.lanes import Lane as ProcessLane
from supervisor.threads import NoThread, in_thread
from tests.sandbox.fake_engine import Answer, fake_engine


@contextmanager
def no_thread_to_spare() -> Iterator[None]:
    """What Python says when the kernel refuses, with none of Trio's idle threads left."""
    refusal = RuntimeError("can't start new thread")
    with (
        mock.patch("threading._start_new_thread", side_effect=refusal),
        mock.patch("trio._core._thread_cache.THREAD_CACHE", ThreadCache()),
    ):
        yield


async def test_call_without_a_thread_is_not_begun() -> None:
    """It has an error of its own, and its place is free again."""
    calls: list[int] = []
    limiter = trio.CapacityLimiter(1)
    with no_thread_to_spare(), pytest.raises(NoThread, match="no thread to spare"):
        await in_thread(lambda: calls.append(1), limiter)
    assert (calls, limiter.borrowed_tokens) == ([], 0)
    await in_thread(lambda: calls.append(2), limiter)
    assert calls == [2]


async def test_error_of_the_call_itself_is_left_as_it_is() -> None:
    """A call that was begun and raises what a thread that is not there would raise."""

    def bug() -> None:
        raise RuntimeError("a bug of ours")

    with pytest.raises(RuntimeError, match="a bug of ours"):
        await in_thread(bug, trio.CapacityLimiter(1))


async def test_lanes_without_a_thread_are_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    """Whatever is asked of it, of Docker's as of our own; and none of it harms what is asked afterwards."""
    with fake_engine(tmp_path / "engine.sock") as engine:
        engine.tell({"GET /events": Answer()})
        docker, process = DockerLane(engine.base_url, 1), ProcessLane(1)
        with no_thread_to_spare():
            for ask in (docker.call(read_limit(), version), docker.look(version), process.call(int)):
                with pytest.raises(EngineUnavailable, match="no thread to spare"):
                    await ask
            with pytest.raises(EngineUnavailable, match="no thread to spare"):
                async with docker.open_stream(read_limit(), events):
                    raise AssertionError
        async with docker.open_stream(read_limit(), events) as stream:
            with no_thread_to_spare(), pytest.raises(EngineUnavailable, match="no thread to spare"):
                await stream.next_chunk()
        assert await docker.look(version) == "20.10.24"
        docker.close()


def version(client: EngineClient) -> str:
    """Ask for the engine's version."""
    return str(client.version()["Version"])


def events(client: EngineClient) -> Response:
    """Ask for events."""
    return client.open_stream("GET", "/events", {})
