"""Both tables of the life cycle, every row, through the supervisor."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import structlog
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from supervisor.actors.context import disk_key, sandbox_key
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import AgentRefused, InvalidTransition, NotFound
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import ExecutionStatus, FailureCode, Intent, Observed
from supervisor.conversation.restart import RestartMode, RestartPolicy
from supervisor.sandbox.port import SandboxState
from tests.world import C1, SETTINGS, World, open_world, until

NO_RESTARTS = attrs.evolve(SETTINGS, restart=RestartPolicy(mode=RestartMode.NEVER))
UNKNOWN = "unknown id"


async def reach(world: World, status: Status) -> None:
    """Bring C1 into a status in which nothing moves."""
    await go_to(world, status)
    await trio.sleep(0.1)


async def go_to(world: World, status: Status) -> None:
    """Bring C1 into a status."""
    if status is Status.STARTING:
        world.agent.close_gate("wait_ready")
        await world.start(request=StartRequest(wait=False))
        await world.until(lambda record: record.phase == "boot")
        return
    await world.start()
    if status is Status.PAUSED:
        await world.supervisor.pause(C1, None)
    elif status is Status.ERROR:
        world.engine.die(world.record().sandbox.name, 3)  # type: ignore[union-attr]  # it runs
        await world.until_status(Status.ERROR)
    elif status in (Status.STOPPED, Status.ARCHIVED):
        await world.stop()
        if status is Status.ARCHIVED:
            await world.supervisor.archive(C1, None)


def ask(world: World, command: Command, *, force: bool = False) -> Awaitable[object]:
    """Send a command to C1."""
    commands: dict[Command, Callable[[], Awaitable[object]]] = {
        Command.START: lambda: world.supervisor.start(StartRequest(id=C1)),
        Command.PAUSE: lambda: world.supervisor.pause(C1, None),
        Command.RESUME: lambda: world.supervisor.resume(C1, None),
        Command.STOP: lambda: world.supervisor.stop(C1, None, force=force),
        Command.RESTART: lambda: world.supervisor.restart(C1, None, force=force),
        Command.ARCHIVE: lambda: world.supervisor.archive(C1, None),
        Command.DELETE: lambda: world.supervisor.delete(C1),
        Command.CONNECT: lambda: world.supervisor.connect(C1),
    }
    return commands[command]()


@attrs.frozen
class Row:
    """A row of the first table: what a command does to a conversation in a status."""

    status: Status
    command: Command
    force: bool
    path: list[Status]


CHANGES = [
    Row(Status.RUNNING, Command.PAUSE, False, [Status.PAUSED]),
    Row(Status.PAUSED, Command.RESUME, False, [Status.RUNNING]),
    Row(Status.PAUSED, Command.START, False, [Status.RUNNING]),
    *[
        Row(status, Command.STOP, force, [Status.STOPPED])
        for status in (Status.STARTING, Status.RUNNING, Status.PAUSED, Status.ERROR)
        for force in (False, True)
    ],
    *[
        Row(status, Command.RESTART, force, [Status.STARTING, Status.RUNNING])
        for status in (Status.STOPPED, Status.ERROR)
        for force in (False, True)
    ],
    *[
        Row(status, Command.RESTART, True, [Status.STOPPED, Status.STARTING, Status.RUNNING])
        for status in (Status.RUNNING, Status.PAUSED)
    ],
    Row(Status.STOPPED, Command.ARCHIVE, False, [Status.ARCHIVED]),
]


@pytest.mark.parametrize("row", CHANGES, ids=lambda row: f"{row.status}-{row.command}-{row.force}")
async def test_command_takes_the_way_of_the_table(tmp_path: Path, autojump_clock: MockClock, row: Row) -> None:
    """Each row of the first table that a command brings about, as the events tell it."""
    async with open_world(tmp_path, settings=NO_RESTARTS) as world:
        await reach(world, row.status)
        before = await world.statuses()
        await ask(world, row.command, force=row.force)
        assert (await world.statuses())[len(before) :] == row.path
        assert (await world.supervisor.get(C1)).status is row.path[-1]


AS_IS = [
    *[(status, Command.START) for status in (Status.RUNNING, Status.ERROR)],
    *[(status, Command.STOP) for status in (Status.STOPPED, Status.ARCHIVED)],
    (Status.STARTING, Command.RESTART),
    (Status.STARTING, Command.START),
    (Status.ARCHIVED, Command.ARCHIVE),
]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("status", "command"), AS_IS)
async def test_command_answers_without_acting(
    tmp_path: Path, autojump_clock: MockClock, status: Status, command: Command, force: bool
) -> None:
    """Each entry of the second table's middle column: the conversation as it is, and nothing happens."""
    async with open_world(tmp_path, settings=NO_RESTARTS) as world:
        await reach(world, status)
        before, events = await world.supervisor.get(C1), await world.statuses()
        await ask(world, command, force=force)
        after = await world.supervisor.get(C1)
        assert (after.status, after.incarnation, after.error) == (before.status, before.incarnation, before.error)
        assert await world.statuses() == events


REFUSED = [
    *[(status, Command.START, hint) for status, hint in [(Status.STOPPED, "restart"), (Status.ARCHIVED, None)]],
    *[(status, Command.PAUSE, None) for status in Status if status is not Status.RUNNING],
    *[(status, Command.RESUME, None) for status in (Status.STARTING, Status.RUNNING, Status.ARCHIVED)],
    *[(status, Command.RESUME, "restart") for status in (Status.STOPPED, Status.ERROR)],
    (Status.ARCHIVED, Command.RESTART, None),
    *[(status, Command.RESTART, "restart with force") for status in (Status.RUNNING, Status.PAUSED)],
    *[
        (status, command, "stop")
        for status in (Status.STARTING, Status.RUNNING, Status.PAUSED, Status.ERROR)
        for command in (Command.ARCHIVE, Command.DELETE)
    ],
    *[(status, Command.CONNECT, None) for status in (Status.STARTING, Status.ARCHIVED)],
    *[(status, Command.CONNECT, "restart") for status in (Status.STOPPED, Status.ERROR)],
    (Status.PAUSED, Command.CONNECT, "resume"),
]


@pytest.mark.parametrize(("status", "command", "hint"), REFUSED)
async def test_command_is_refused(
    tmp_path: Path, autojump_clock: MockClock, status: Status, command: Command, hint: str | None
) -> None:
    """Each entry of the second table's last column: `invalid_transition` with the status, and nothing happens."""
    async with open_world(tmp_path, settings=NO_RESTARTS) as world:
        await reach(world, status)
        before, kinds = await world.supervisor.get(C1), await world.kinds()
        with pytest.raises(InvalidTransition) as caught:
            await ask(world, command)
        assert (caught.value.status, caught.value.command, caught.value.hint) == (status, command, hint)
        assert (await world.supervisor.get(C1), await world.kinds()) == (before, kinds)


@pytest.mark.parametrize("command", [command for command in Command if command is not Command.START])
async def test_command_to_an_unknown_id_is_not_found(
    tmp_path: Path, autojump_clock: MockClock, command: Command
) -> None:
    """Nothing but `start` makes a conversation."""
    async with open_world(tmp_path) as world:
        with pytest.raises(NotFound):
            await ask(world, command, force=True)


async def test_start_makes_a_running_conversation(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A start goes through its four phases and answers when the agent has accepted the conversation."""
    async with open_world(tmp_path) as world:
        request = StartRequest(labels={"team": "a"}, request={"initial_message": "hello"})
        record = await world.start(request=request)
        assert (record.status, record.phase, record.incarnation, record.restarts) == (Status.RUNNING, None, 1, 0)
        assert (record.observed, record.execution_status) == (Observed.LIVE, ExecutionStatus.RUNNING)
        assert (record.labels, record.intent) == ({"team": "a"}, None)
        assert await world.statuses() == ["STARTING", "RUNNING"]
        assert [told["phase"] for told in await world.told("phase")] == ["image", "create", "boot", "agent"]
        assert (await world.kinds())[:2] == ["created", "status"]
        assert world.engine.sandboxes[record.sandbox.name].plan.env == {  # type: ignore[union-attr]  # it runs
            "KEY": sandbox_key(record),
            "SECRET": disk_key(record),
            "WORKSPACE": "/workspace",
        }


async def test_start_of_no_id_makes_one(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An id is made when the caller brings none; two such starts make two conversations."""
    async with open_world(tmp_path) as world:
        first = await world.supervisor.start(StartRequest())
        second = await world.supervisor.start(StartRequest())
        assert first.id != second.id
        assert len(world.engine.sandboxes) == 2


async def test_pause_has_two_layers_and_resume_undoes_both(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Pause asks the agent and freezes the sandbox; resume thaws it and lets the agent go on."""
    async with open_world(tmp_path) as world:
        record = await world.start()
        paused = await world.supervisor.pause(C1, None)
        assert world.agent.conversations[C1].status is ExecutionStatus.PAUSED
        assert list(world.engine.states().values()) == [SandboxState.PAUSED]
        assert (paused.execution_status, paused.run_on_resume) == (ExecutionStatus.PAUSED, True)
        resumed = await world.supervisor.resume(C1, None)
        assert list(world.engine.states().values()) == [SandboxState.RUNNING]
        assert (resumed.execution_status, resumed.incarnation) == (ExecutionStatus.RUNNING, record.incarnation)
        assert world.agent.calls.count("run") == 1


async def test_resume_leaves_an_agent_alone_that_did_not_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An agent that was idle when it was paused is not told to run."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.agent.does(C1, ExecutionStatus.IDLE)
        await world.until(lambda record: record.execution_status is ExecutionStatus.IDLE)
        await world.supervisor.pause(C1, None)
        resumed = await world.supervisor.resume(C1, None)
        assert resumed.execution_status is ExecutionStatus.IDLE
        assert "run" not in world.agent.calls


async def test_resume_asks_for_readiness_while_it_thaws(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The agent is asked before the engine has answered, so that nobody waits for one after the other."""
    async with open_world(tmp_path) as world, trio.open_nursery() as nursery:
        await world.start()
        await world.supervisor.pause(C1, None)
        world.engine.close_gate("unpause")
        asked = world.agent.calls.count("wait_ready")
        nursery.start_soon(world.supervisor.resume, C1, None)
        await until(lambda: world.agent.calls.count("wait_ready") > asked)
        assert world.record().status is Status.PAUSED
        world.engine.open_gate("unpause")
        await world.until_status(Status.RUNNING)


async def test_resume_asks_nothing_that_thaws_ready(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What cannot have become unready while it was frozen is not asked."""
    async with open_world(tmp_path) as world:
        world.agent.thaws_ready = True
        await world.start()
        await world.supervisor.pause(C1, None)
        asked = world.agent.calls.count("wait_ready")
        resumed = await world.supervisor.resume(C1, None)
        assert (resumed.status, world.agent.calls.count("wait_ready")) == (Status.RUNNING, asked)


async def test_execution_status_is_followed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What the agent does is in the record and in the events, beside the status."""
    async with open_world(tmp_path) as world:
        await world.start()
        for doing in (ExecutionStatus.WAITING_FOR_CONFIRMATION, ExecutionStatus.FINISHED):
            world.agent.does(C1, doing)
            await world.until(lambda record, doing=doing: record.execution_status is doing)  # type: ignore[misc]  # bound at once
        assert await world.told("execution") == [
            {"from": None, "to": "running"},
            {"from": "running", "to": "waiting_for_confirmation"},
            {"from": "waiting_for_confirmation", "to": "finished"},
        ]
        assert world.record().status is Status.RUNNING


async def test_stop_keeps_the_workspace_and_interrupts_the_agent(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A graceful stop gives the agent a moment, ends the sandbox and keeps its files."""
    async with open_world(tmp_path) as world:
        await world.start()
        stopped = await world.supervisor.stop(C1, None, force=False)
        assert stopped.was_running
        assert world.agent.calls[-1] == "interrupt"
        assert (stopped.record.observed, stopped.record.execution_status) == (Observed.COLD, None)
        assert list(world.engine.states().values()) == [SandboxState.EXITED]
        assert world.engine.workspaces == {C1}


async def test_stop_says_when_nothing_ran(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A second stop is fine and answers `was_running: false`, with force and without."""
    async with open_world(tmp_path) as world:
        await world.start()
        await world.stop()
        for force in (False, True):
            assert not (await world.supervisor.stop(C1, None, force=force)).was_running


async def test_restart_boots_the_next_incarnation(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An explicit restart makes a new sandbox over the same workspace, and the old one is gone."""
    async with open_world(tmp_path) as world:
        first = await world.start()
        await world.stop()
        again = await world.supervisor.restart(C1, None, force=False)
        assert (again.incarnation, again.restarts, again.error) == (first.incarnation + 1, 0, None)
        assert list(world.engine.sandboxes) == [again.sandbox.name]  # type: ignore[union-attr]  # it runs
        assert world.engine.most_at_once[C1] == 1


async def test_restart_forgets_the_error_and_its_restarts(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A person who restarts a failed conversation gives it its whole allowance again."""
    policy = RestartPolicy(max_restarts=1, jitter=0.0)
    async with open_world(tmp_path, settings=attrs.evolve(SETTINGS, restart=policy)) as world:
        await world.start()
        world.engine.die(world.record().sandbox.name)  # type: ignore[union-attr]  # it runs
        await world.until_status(Status.STARTING)
        await world.until_status(Status.RUNNING)
        world.engine.die(world.record().sandbox.name)  # type: ignore[union-attr]  # it runs
        await world.until_status(Status.ERROR)
        assert world.record().error.code is FailureCode.EXITED  # type: ignore[union-attr]  # as just seen
        record = await world.supervisor.restart(C1, None, force=False)
        assert (record.status, record.error, record.restart_history) == (Status.RUNNING, None, ())


async def test_archive_removes_the_sandbox_and_keeps_the_workspace(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without a place to export to, archiving leaves the files where they are, and the actor goes."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.ARCHIVED)
        assert world.engine.sandboxes == {}
        assert world.engine.workspaces == {C1}
        await until(lambda: world.supervision.registry.find(C1) is None)
        assert (await world.supervisor.get(C1)).sandbox is None


async def test_archive_exports_then_removes_the_workspace(tmp_path: Path, autojump_clock: MockClock) -> None:
    """With a place to export to, the workspace is written there first and then reclaimed."""
    archives = tmp_path / "archives"
    archives.mkdir()
    (archives / "c1.tar").write_text("an older conversation of the same id")
    async with open_world(tmp_path, settings=attrs.evolve(SETTINGS, archive_to=archives)) as world:
        autojump_clock.autojump_threshold = 0.02  # a file is unlinked in a thread, of which the clock knows nothing
        name = (await world.start()).sandbox.name  # type: ignore[union-attr]  # it runs
        await world.stop()
        await world.supervisor.archive(C1, None)
        assert (archives / "c1.tar").read_text() == f"{name}:/workspace"
        assert (world.engine.sandboxes, world.engine.workspaces) == ({}, set())


async def test_archive_keeps_a_workspace_that_it_could_not_export(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A sandbox that is gone cannot be exported from: its files stay where they are."""
    settings = attrs.evolve(SETTINGS, archive_to=tmp_path)
    async with open_world(tmp_path, settings=settings) as world:
        record = await world.start()
        await world.stop()
        world.engine.vanish(record.sandbox.name)  # type: ignore[union-attr]  # it ran
        assert (await world.supervisor.archive(C1, None)).status is Status.ARCHIVED
        assert world.engine.workspaces == {C1}
        assert not (tmp_path / "c1.tar").exists()


@pytest.mark.parametrize("status", [Status.STOPPED, Status.ARCHIVED])
async def test_delete_leaves_events_only(tmp_path: Path, autojump_clock: MockClock, status: Status) -> None:
    """Record, sandbox and workspace go; the history can still be read, and the id is free again."""
    async with open_world(tmp_path) as world:
        await reach(world, status)
        await world.supervisor.delete(C1)
        assert (world.engine.sandboxes, world.engine.workspaces) == ({}, set())
        with pytest.raises(NotFound):
            await world.supervisor.get(C1)
        history = await world.supervisor.history(C1, 0, 1000)
        assert (history[0].kind, history[-1].kind) == ("created", "deleted")
        assert world.supervision.registry.find(C1) is None
        again = await world.start()
        assert (again.status, again.incarnation) == (Status.RUNNING, 1)


async def test_command_events_tell_of_commands_that_were_carried_out(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each command that acted is told once it is done."""
    async with open_world(tmp_path) as world:
        commands = (Command.START, Command.PAUSE, Command.RESUME, Command.STOP, Command.RESTART)
        for command in (*commands, Command.STOP, Command.ARCHIVE):
            await ask(world, command, force=command is Command.STOP)
            await trio.sleep(1)
        told = [(event["command"], event["outcome"]) for event in await world.told("command")]
        assert told == [
            (command, "done") for command in ("start", "pause", "resume", "stop", "restart", "stop", "archive")
        ]


async def test_record_names_its_intent_before_the_engine_is_asked(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The name of a sandbox is durable before the engine hears of it, and so is the wish to end it."""
    async with open_world(tmp_path) as world:
        seen: dict[str, Intent | None] = {}

        def look(call: str) -> None:
            if world.supervision.registry.find(C1) is not None:
                seen[call] = world.record().intent

        world.engine.before = look
        await world.start()
        await world.stop()
        await world.supervisor.archive(C1, None)
        await world.supervisor.delete(C1)
        assert (seen["launch"], seen["stop"]) == (Intent.CREATE, Intent.STOP)
        assert (seen["remove"], seen["remove_workspace"]) == (Intent.ARCHIVE, Intent.DELETE)


async def test_every_line_of_a_conversation_names_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Also what is logged without knowing of the conversation, beside its actor, carries its id and incarnation."""
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with open_world(tmp_path) as world:
            world.agent.fail_next("follow", AgentRefused("the fake agent will not be followed", 404, ""))
            await world.start()
            await trio.sleep(1)
    told = [(line["conversation"], line["incarnation"]) for line in lines if line["event"] == "agent.not_followed"]
    assert told == [(C1, 1)]
