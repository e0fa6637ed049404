"""Queries: committed state, whatever the actors and the engine are doing."""

from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor import __version__
from supervisor.actors.context import sandbox_key
from supervisor.control.service import EngineStatus, StartRequest
from supervisor.conversation.errors import NotFound
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Observed, Phase
from tests.actors.test_life import reach
from tests.actors.test_restart import name_of
from tests.world import C1, SETTINGS, open_world

C2, C3 = ConversationId("c2"), ConversationId("c3")


async def test_info_says_how_the_daemon_does(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Version, uptime, the engine's versions, what runs and may run, and the last sequence number."""
    async with open_world(tmp_path) as world:
        await world.start()
        await trio.sleep(100)
        info = await world.supervisor.info()
        assert info.version == __version__
        assert info.uptime == pytest.approx(100, abs=2)
        assert info.engine == EngineStatus(True, "fake-1", "1.0", "docker")
        assert (info.capacity.running, info.capacity.starting, info.capacity.max_running) == (1, 0, 256)
        assert info.seq == (await world.events(None))[-1].seq
        assert len(info.instance) == 32


async def test_info_never_waits_for_the_engine(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is answered at once while the engine hangs, and says what the engine last told."""
    async with open_world(tmp_path) as world:
        await trio.sleep(1)
        world.engine.go_down()
        world.engine.close_gate("engine")
        await trio.sleep(1)
        began = trio.current_time()
        info = await world.supervisor.info()
        assert (info.engine, trio.current_time()) == (EngineStatus(False, "fake-1", "1.0", "docker"), began)


async def test_get_is_answered_while_the_actor_is_busy(tmp_path: Path, autojump_clock: MockClock) -> None:
    """No query waits for an actor; it sees what was last committed."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.engine.close_gate("stop")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.stop)
            await trio.sleep(1)
            assert (await world.supervisor.get(C1)).status is Status.RUNNING
            world.engine.open_gate("stop")


async def test_get_of_an_archived_conversation_reads_the_journal(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It has no actor, and is there all the same; also after the daemon was started again."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.ARCHIVED)
    async with open_world(tmp_path) as world:
        assert (await world.supervisor.get(C1)).status is Status.ARCHIVED
        with pytest.raises(NotFound):
            await world.supervisor.get(C2)


async def test_list_filters_and_pages(tmp_path: Path, autojump_clock: MockClock) -> None:
    """By statuses and labels, oldest first, page after page without repeating or leaving out."""
    async with open_world(tmp_path) as world:
        for number in range(7):
            labels = {"parity": str(number % 2), "number": str(number)}
            await world.start(ConversationId(f"n{number}"), StartRequest(labels=labels))
        await world.stop(ConversationId("n3"))
        await world.stop(ConversationId("n5"))
        await world.supervisor.archive(ConversationId("n5"), None)
        service = world.supervisor
        seen: list[str] = []
        cursor = None
        while True:
            page = await service.list((), {}, 3, cursor)
            seen += [record.id for record in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == [f"n{number}" for number in range(7)]
        newest = await service.list((), {}, 3, None, newest_first=True)
        older = await service.list((), {}, 9, newest.next_cursor, newest_first=True)
        assert [record.id for record in (*newest.items, *older.items)] == seen[::-1]
        archived = await service.list((Status.STOPPED, Status.ARCHIVED), {}, 100, None)
        assert [record.id for record in archived.items] == ["n3", "n5"]
        odd = await service.list((Status.RUNNING,), {"parity": "1"}, 100, None)
        assert [record.id for record in odd.items] == ["n1"]
        assert (await service.list((), {"parity": "1", "number": "2"}, 100, None)).items == ()


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 30, "٣", "²"])
async def test_cursor_that_no_list_gave_is_refused(tmp_path: Path, autojump_clock: MockClock, cursor: str) -> None:
    """A wrong cursor is an error, never another list."""
    async with open_world(tmp_path) as world:
        with pytest.raises(NotFound):
            await world.supervisor.list((), {}, 10, cursor)


async def test_connect_gives_address_and_key(tmp_path: Path, autojump_clock: MockClock) -> None:
    """How to reach the agent server: the published address and the sandbox's own key, another one for each."""
    async with open_world(tmp_path) as world:
        await world.start()
        await world.start(C2)
        first, second = await world.supervisor.connect(C1), await world.supervisor.connect(C2)
        assert first.url == f"http://127.0.0.1:{world.engine.sandboxes[name_of(world)].port}"
        assert first.session_api_key == sandbox_key(world.record())
        assert world.record().session_key not in first.session_api_key
        assert len({first.session_api_key, second.session_api_key}) == 2
        assert first.session_api_key not in repr(first)
        assert sandbox_key(await world.supervisor.restart(C1, None, force=True)) != first.session_api_key


@pytest.mark.parametrize("phase", [None, *Phase])
async def test_access_is_known_as_soon_as_the_sandbox_is_launched(
    tmp_path: Path, autojump_clock: MockClock, phase: Phase | None
) -> None:
    """While it boots, runs or is frozen; not that of one that is over, whatever the record still says of it."""
    async with open_world(tmp_path) as world:
        record = await world.start()
        access = world.supervisor.access
        assert access(record) == await world.supervisor.connect(C1)
        starting = attrs.evolve(record, status=Status.STARTING, phase=phase)
        assert (access(starting) is not None) is (phase in (Phase.BOOT, Phase.AGENT))
        assert record.sandbox is not None
        for status in Status:
            reachable = status in (Status.RUNNING, Status.PAUSED)
            assert (access(attrs.evolve(record, status=status)) is not None) is reachable
        assert access(attrs.evolve(record, sandbox=attrs.evolve(record.sandbox, url=None))) is None
        assert access(attrs.evolve(record, sandbox=None)) is None


async def test_defaults_and_images_are_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Those of the settings, and of the default provider."""
    async with open_world(tmp_path) as world:
        assert world.supervisor.defaults() == SETTINGS.sandbox
        assert await world.supervisor.find_image("image") is not None
        assert await world.supervisor.find_image("other") is None


async def test_connect_without_a_port_is_not_found(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A sandbox that publishes nothing cannot be connected to."""
    settings = attrs.evolve(SETTINGS, sandbox=attrs.evolve(SETTINGS.sandbox, port=None))
    async with open_world(tmp_path, settings=settings) as world:
        await world.start()
        with pytest.raises(NotFound, match="port"):
            await world.supervisor.connect(C1)


async def test_logs_are_the_sandboxes_last_lines(tmp_path: Path, autojump_clock: MockClock) -> None:
    """As many as asked for, followed or not; none once the sandbox is removed."""
    async with open_world(tmp_path) as world:
        world.engine.greeting = ["a", "b", "c"]
        await world.start()
        assert await world.supervisor.logs(C1, 2) == ["b", "c"]
        async with world.supervisor.follow_logs(C1, 2) as lines:
            assert [line async for line in lines] == ["b", "c"]
        await world.stop()
        await world.supervisor.archive(C1, None)
        assert await world.supervisor.logs(C1, 2) == ()
        with pytest.raises(NotFound):
            async with world.supervisor.follow_logs(C1, 2):
                pass


async def test_history_is_the_conversations_own(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Oldest first, from where it was asked for, as many as asked for, and of no other conversation."""
    async with open_world(tmp_path) as world:
        await world.start()
        await world.start(C2)
        await world.stop()
        await trio.sleep(1)
        whole = await world.supervisor.history(C1, 0, 1000)
        assert {event.conversation for event in whole} == {C1}
        assert [event.seq for event in whole] == sorted(event.seq for event in whole)
        assert await world.supervisor.history(C1, whole[2].seq, 3) == whole[3:6]
        assert await world.supervisor.history(C1, whole[-1].seq, 3) == ()
        with pytest.raises(NotFound):
            await world.supervisor.history(C3, 0, 10)


async def test_secrets_are_in_no_event(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Session key and request go to the journal's record and the sandbox, and into no event and no repr."""
    async with open_world(tmp_path) as world:
        record = await world.start(request=StartRequest(request={"api_key": "hunter2"}))
        await world.stop()
        told = "".join(event.data for event in await world.events(None)) + repr(world.record())
        assert record.session_key not in told
        assert sandbox_key(record) not in told
        assert "hunter2" not in told


async def test_health_is_told_when_it_changes_only(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Looking a hundred times says nothing a hundred times."""
    async with open_world(tmp_path) as world:
        await world.start()
        seq = world.supervision.journal.last_seq
        for _ in range(100):
            world.engine.tell(C1)
            await trio.sleep(0.1)
        assert world.record().observed is Observed.LIVE
        assert world.supervision.journal.last_seq <= seq + 1
