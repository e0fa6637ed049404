"""What a daemon that ends, in whatever way, leaves behind and finds again."""

import signal
from collections.abc import Callable
from functools import partial

import docker
import pytest
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, Conversation, EventSubscription, RemoteError, connect
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.lifecycle import Status
from tests.daemon.conftest import config_for, owned
from tests.daemon_process import DaemonProcess

PATIENCE = 60.0


def container_of(conversation: Conversation) -> str:
    """The engine's id of a conversation's container."""
    assert conversation.sandbox is not None
    assert conversation.sandbox.id is not None
    return conversation.sandbox.id


async def told(events: EventSubscription, *whats: str) -> str:
    """Wait until the daemon tells one of these of itself."""
    with trio.fail_after(PATIENCE):
        async for event in events:
            if event.kind == "daemon" and event.data["what"] in whats:
                return str(event.data["what"])
    raise AssertionError("the subscription ended")


async def until(client: ControlClient, conversation: str, status: Status) -> None:
    """Follow the events until a conversation has a status."""
    with trio.fail_after(PATIENCE):
        async with client.subscribe(ids=[conversation], snapshot=True) as events:
            assert events.conversations is not None
            if events.conversations[0].status is status:
                return
            async for event in events:
                if event.kind == "status" and event.data["to"] == status:
                    return


async def test_kill_9_loses_no_conversation_and_disturbs_no_sandbox(
    daemon: DaemonProcess, raw: docker.APIClient
) -> None:
    """After kill -9 and a new start every conversation is there, in its own sandbox, which never stopped."""
    async with connect(UnixAddress(daemon.socket)) as client:
        for name in ("runs", "pauses", "stops"):
            await client.start(name)
        await client.pause("pauses")
        await client.stop("stops")
        before = {one.id: one for one in await client.list_all()}
    started = {one.id: raw.inspect_container(container_of(one))["State"] for one in before.values()}
    daemon.kill()
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client:
        after = {one.id: one for one in await client.list_all()}
        assert {name: (one.status, one.sandbox, one.incarnation) for name, one in after.items()} == {
            name: (one.status, one.sandbox, one.incarnation) for name, one in before.items()
        }
        assert (await client.resume("pauses")).status is Status.RUNNING
    for one in after.values():
        state = raw.inspect_container(container_of(one))["State"]
        assert state["StartedAt"] == started[one.id]["StartedAt"]
        assert state["Pid"] == started[one.id]["Pid"]


async def test_kill_9_in_the_middle_of_starts_makes_one_sandbox_each(
    daemon: DaemonProcess, raw: docker.APIClient
) -> None:
    """Starts that were cut by kill -9 end RUNNING, with one container for each conversation and none besides."""
    names = [f"cut{number}" for number in range(6)]
    async with connect(UnixAddress(daemon.socket)) as client:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(partial(client.start, name, wait=False))
        async with client.subscribe(since=0) as events:
            async for event in events:
                if event.kind == "phase" and event.data["phase"] == "create":
                    break
        daemon.kill()
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client:
        for name in names:
            await until(client, name, Status.RUNNING)
        wanted = {one.sandbox.name for one in await client.list_all() if one.sandbox}
    assert {row["Names"][0].removeprefix("/") for row in owned(raw, daemon)} == wanted
    assert len(wanted) == len(names)


async def test_what_died_while_the_daemon_was_away_is_restarted(daemon: DaemonProcess, raw: docker.APIClient) -> None:
    """A sandbox that ended unseen is told as a death and started again; one that was removed as well."""
    async with connect(UnixAddress(daemon.socket)) as client:
        dead, gone = await client.start("dead"), await client.start("gone")
    daemon.kill()
    raw.kill(container_of(dead))
    raw.remove_container(container_of(gone), force=True)
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client:
        for name, reason in (("dead", "exited"), ("gone", "removed")):
            await until(client, name, Status.RUNNING)
            told = [event.data for event in await client.history(name) if event.kind == "restart_scheduled"]
            assert [data["cause"] for data in told] == [reason]
            assert (await client.get(name)).incarnation == 2


def test_a_container_that_no_record_wants_is_removed(
    daemon: DaemonProcess, raw: docker.APIClient, tiny_image: str
) -> None:
    """An orphan with our labels goes at the start; a foreign container stays."""
    daemon.stop()
    labels = {
        "io.conversationd.owner": daemon.instance,
        "io.conversationd.conversation": "orphan",
        "io.conversationd.incarnation": "3",
    }
    name = f"conversationd-{daemon.instance[:8]}-orphan-3"
    raw.create_container(tiny_image, ["sleep", "1000"], name=name, labels=labels)
    foreign = raw.create_container(tiny_image, ["sleep", "1000"])["Id"]
    try:
        daemon.start()
        assert owned(raw, daemon) == []
        assert raw.inspect_container(foreign)["State"]["Status"] == "created"
    finally:
        raw.remove_container(foreign)


@pytest.mark.parametrize(("on_shutdown", "status"), [("pause", Status.PAUSED), ("stop", Status.STOPPED)])
async def test_on_shutdown_says_what_becomes_of_the_sandboxes(
    make_daemon: Callable[[str], DaemonProcess], tiny_image: str, on_shutdown: str, status: Status
) -> None:
    """SIGTERM pauses or stops every conversation where the config says so, and the next start finds them like that."""
    daemon = make_daemon(config_for(tiny_image))
    text = daemon.config.read_text().replace("[daemon]\n", f'[daemon]\non_shutdown = "{on_shutdown}"\n')
    daemon.config.write_text(text)
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client:
        await client.start("c1")
    assert daemon.stop() == 0
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client:
        assert (await client.get("c1")).status is status


async def test_sigterm_leaves_sandboxes_running_and_tells_clients(daemon: DaemonProcess, raw: docker.APIClient) -> None:
    """By default the daemon goes and the sandboxes stay."""
    async with connect(UnixAddress(daemon.socket)) as client:
        conversation = await client.start("c1")
    assert daemon.stop() == 0
    assert raw.inspect_container(container_of(conversation))["State"]["Status"] == "running"


async def test_sighup_applies_the_new_config_and_survives_a_wrong_one(
    daemon: DaemonProcess, client: ControlClient
) -> None:
    """A reload changes what may change; a config that is wrong changes nothing and is told."""
    good = daemon.config.read_text()
    async with client.subscribe() as events:
        daemon.config.write_text("nonsense = 1\n")
        daemon.send(signal.SIGHUP)
        assert await told(events, "reloaded", "reload_failed") == "reload_failed"
        daemon.config.write_text(good + "[capacity]\nmax_running = 3\n")
        daemon.send(signal.SIGHUP)
        assert await told(events, "reloaded", "reload_failed") == "reloaded"
    assert (await client.info()).capacity.max_running == 3


async def test_without_an_engine_the_daemon_serves_and_refuses_starts(
    make_daemon: Callable[[str], DaemonProcess], tiny_image: str
) -> None:
    """An engine that is not there is told, and a start is refused in words; nothing is recorded for it."""
    daemon = make_daemon(config_for(tiny_image) + '[docker]\nhost = "unix:///nonexistent/docker.sock"\n')
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client:
        assert not (await client.info()).engine.reachable
        with pytest.raises(RemoteError) as caught:
            await client.start("c1")
        assert caught.value.has(ErrorCode.ENGINE_UNAVAILABLE)
        assert await client.list_all() == ()
