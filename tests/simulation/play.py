"""Plays a script on a simulated host, lets it settle, and says what was wrong: the same every time."""

import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, cast
from unittest import mock

import attrs
import structlog
import trio
from trio.testing import MockClock

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.record import ExecutionStatus
from tests.simulation.aftermath import wrong_with_last_days, wrong_with_replays
from tests.simulation.agent import Fate, Manner
from tests.simulation.checks import Ending, watch, wrong_at_the_end
from tests.simulation.clients import COMMANDS, Clients
from tests.simulation.docker import HISTORY, Container, Fault, Mood
from tests.simulation.host import Host, simulated_time
from tests.simulation.script import EFFECTS, SLOWNESS, Kind, Step, make_script

SETTLES_IN: Final = 500.0
"""Most seconds of peace at the end: the longest deadline, restarts that may still come, two of the minute's lists."""

SETTLED_AFTER: Final = 150.0
"""Seconds of peace without a commit, or a change that the engine was asked for, and with two of the minute's lists."""

_MEMORY: Final = Path("/dev/shm")


@attrs.frozen
class Verdict:
    """What a play came to: `problems` is empty if every promise was kept; `digest` is the same for the same play."""

    problems: tuple[str, ...]
    digest: int
    kills: int
    events: int


def play(seed: int, steps: Sequence[Step]) -> Verdict:
    """Play a script; `seed` also decides every delay and the scheduler's order."""
    where = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where, prefix="simulation-") as directory, _determinism(seed):
        try:
            return trio.run(
                _play,
                Path(directory),
                seed,
                steps,
                clock=MockClock(autojump_threshold=0.0),
                strict_exception_groups=True,
            )
        except Exception as error:  # noqa: BLE001 - a crash of the whole is a finding like any other
            return Verdict((f"the daemon crashed: {''.join(traceback.format_exception(error)[-30:])}",), 0, 0, 0)


def play_seed(seed: int) -> tuple[int, Verdict]:
    """Play the script that a seed makes; for worker processes, which tell in any order."""
    return seed, play(seed, make_script(seed))


@contextmanager
def _determinism(seed: int) -> Iterator[None]:
    """Let Trio's scheduler throw dice of ours, and nothing write logs.

    The switch is the one that Trio has for Hypothesis: tasks are put in the order of their making before they are
    shuffled, so that no memory address decides anything.
    """
    core = cast("Any", trio)._core._run
    before = core._r.getstate()
    logging = structlog.get_config()
    structlog.configure(processors=[_drop])
    with mock.patch.object(core, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True):
        core._r.seed(seed)
        try:
            yield
        finally:
            core._r.setstate(before)
            structlog.configure(**logging)


def _drop(*_: object) -> Mapping[str, object]:
    raise structlog.DropEvent


async def _play(directory: Path, seed: int, steps: Sequence[Step]) -> Verdict:
    problems: list[str] = []
    async with trio.open_nursery() as nursery:
        host = Host(directory, Random(seed), nursery)
        calm = all(step.kind in EFFECTS or step.kind in SLOWNESS for step in steps)
        if calm:
            host.engine.share_of_slow_calls = 0.0
        clients = Clients(host, calm=calm)
        watch(host, clients)
        with simulated_time(host.wall):
            nursery.start_soon(host.run)
            for step in steps:
                await trio.sleep(step.wait)
                _take(step, host, clients)
            await _settle(host)
            ending = await _look_back(host, clients, steps)
            problems = wrong_at_the_end(ending)
            problems += await wrong_with_replays(ending)
            problems += await wrong_with_last_days(ending)
            nursery.cancel_scope.cancel()
    told = "\n".join(f"{event.seq} {event.at} {event.conversation} {event.data}" for event in ending.events)
    return Verdict(tuple(problems), zlib.crc32(told.encode()), host.kills, len(ending.events))


async def _settle(host: Host) -> None:
    """Every fault is over, and time passes."""
    engine, agents = host.engine, host.agents
    engine.rise()
    engine.faults.clear()
    engine.events_lost = engine.events_twice = 0
    engine.event_delay, engine.term_time = 0.0, 0.1
    engine.remember(HISTORY)
    engine.images.add("image")
    engine.pull_steps = [(0.5, 100)]
    agents.fates.clear()
    agents.manners.clear()
    agents.boot_time, agents.step_time, agents.deaf_until = 0.5, 0.2, -1.0
    host.disk_full_until = min(host.disk_full_until, trio.current_time())
    host.receiver_deafness = 0.0
    host.kill_in = 0
    at_most = trio.current_time() + SETTLES_IN
    await trio.sleep(SETTLED_AFTER)
    while trio.current_time() < at_most:
        settled_at = min(at_most, _last_change(host) + SETTLED_AFTER)
        if settled_at <= trio.current_time():
            return
        await trio.sleep_until(settled_at)


def _last_change(host: Host) -> float:
    return max(host.changed_at, host.engine.changed_at)


async def _look_back(host: Host, clients: Clients, steps: Sequence[Step]) -> Ending:
    life = host.life
    assert life is not None
    assert life.supervision is not None
    kinds = {step.kind for step in steps}
    refusals = (Fault.REFUSED.name, Fault.FAILED_AFTER.name, Fault.TAKEN.name)
    journal = life.supervision.journal
    page = await journal.page((), {}, 100, 0)
    return Ending(
        host,
        clients,
        page.records,
        await journal.events(0, None, None, 1_000_000),
        (await journal.judgement()).standing,
        clock_was_stepped=Kind.CLOCK_STEPS in kinds,
        disk_was_full=Kind.DISK_FULL in kinds,
        engine_refused=any(step.kind is Kind.CALL_FAULT and step.what.endswith(refusals) for step in steps),
        supervisor=life.supervision.supervisor,
    )


def _take(step: Step, host: Host, clients: Clients) -> None:
    """Let a step happen."""
    if step.kind in COMMANDS:
        clients.ask(step)
    elif step.kind in _TO_A_CONTAINER:
        for container in tuple(host.engine.containers.values()):
            if container.conversation == step.what:
                _TO_A_CONTAINER[step.kind](host, container, int(step.number))
    else:
        _TO_THE_HOST[step.kind](host, clients, step)


def _freeze(host: Host, container: Container, _: int) -> None:
    if container.status == "running":
        container.status = "paused"
        host.engine.tell("pause", container)


def _thaw(host: Host, container: Container, _: int) -> None:
    if container.status == "paused":
        container.status = "running"
        host.engine.tell("unpause", container)


def _vanish(host: Host, container: Container, _: int) -> None:
    host.engine.end(container, 137)
    del host.engine.containers[container.id]
    host.engine.tell("destroy", container)


def _restart(host: Host, container: Container, _: int) -> None:
    """By its engine: one that is away restarts nothing."""
    if host.engine.mood is Mood.UP:
        host.engine.end(container, 143)
        host.engine.run(container)
        container.is_run_by_somebody = container.was_run_by_somebody = True


def _rename(host: Host, container: Container, _: int) -> None:
    """Only one whose id a record remembers: before that nobody could tell it from a stranger with our labels."""
    if container.id in host.known_ids:
        before, container.name = container.name, f"renamed-{container.id[-4:]}"
        host.engine.tell("rename", container, oldName=f"/{before}")


_TO_A_CONTAINER: Final[Mapping[Kind, Callable[[Host, Container, int], None]]] = {
    Kind.DIES: lambda host, container, code: host.engine.end(container, code),
    Kind.OUT_OF_MEMORY: lambda host, container, _code: host.engine.end(container, 137, oom=True),
    Kind.CHILD_OUT_OF_MEMORY: lambda host, container, _code: host.engine.run_out_of_memory(container),
    Kind.FROZEN: _freeze,
    Kind.THAWED: _thaw,
    Kind.REMOVED: _vanish,
    Kind.RENAMED: _rename,
    Kind.RESTARTED: _restart,
}


def _restart_engine(host: Host, _: Clients, step: Step) -> None:
    for container in host.engine.containers.values():
        if container.conversation == step.what:
            _freeze(host, container, 0)
    host.engine.live_restore = step.kind is Kind.ENGINE_RESTARTS_LIVE
    host.engine.restart(forgets=step.kind is Kind.ENGINE_FORGETS)


def _break_call(host: Host, _: Clients, step: Step) -> None:
    op, fault = step.what.split()
    host.engine.break_next(op, Fault[fault], int(step.number))
    _ASKED_AFTER.get(op, _nothing)(host)


def _nothing(_: Host) -> None:
    """It is asked often enough."""


def _rename_all(host: Host) -> None:
    for container in host.engine.containers.values():
        _rename(host, container, 0)


_ASKED_AFTER: Final[Mapping[str, Callable[[Host], None]]] = {
    "pull": lambda host: host.engine.images.clear(),
    "info": Host.kill,
    "version": Host.kill,
    "rename": _rename_all,
}
"""What makes the daemon ask the engine for what it else asks so seldom that no fault would meet it."""


def _spoil_agent(host: Host, _: Clients, step: Step) -> None:
    what, manner = step.what.split()
    host.agents.spoil_next(what, Manner[manner], int(step.number))


def _decide(host: Host, _: Clients, step: Step) -> None:
    conversation, status = step.what.split()
    mind = host.agents.minds.get(ConversationId(conversation))
    runs = any(one.conversation == conversation and host.agents.serving(one) for one in host.engine.containers.values())
    if mind is not None and runs and mind.status is not ExecutionStatus.PAUSED:
        mind.become(ExecutionStatus(status))


def _pull(host: Host, _: Clients, step: Step) -> None:
    """Whoever starts next has to fetch the image."""
    host.engine.images.clear()
    crawl = [(4.0, 10 * number) for number in range(1, 8)]
    host.engine.pull_steps = {"crawl": crawl, "stall": [(1.0, 10), (-1.0, 0)], "fail": [(0.2, -1)]}[step.what]


def _set(where: Callable[[Host], object], name: str, host: Host, _: Clients, step: Step) -> None:
    setattr(where(host), name, step.number)


def _engine(host: Host) -> object:
    return host.engine


def _agents(host: Host) -> object:
    return host.agents


_TO_THE_HOST: Final[Mapping[Kind, Callable[[Host, Clients, Step], None]]] = {
    Kind.HANG_UP: lambda _host, clients, _step: clients.hang_up(),
    Kind.READER_LEAVES: lambda _host, clients, _step: clients.leave(),
    Kind.ENGINE_FALLS: lambda host, _clients, _step: host.engine.fall(),
    Kind.ENGINE_HANGS: lambda host, _clients, _step: host.engine.fall(hung=True),
    Kind.ENGINE_RISES: lambda host, _clients, _step: host.engine.rise(),
    Kind.ENGINE_RESTARTS: _restart_engine,
    Kind.ENGINE_RESTARTS_LIVE: _restart_engine,
    Kind.ENGINE_FORGETS: _restart_engine,
    Kind.CALL_FAULT: _break_call,
    Kind.EVENTS_LOST: lambda host, _clients, step: setattr(host.engine, "events_lost", int(step.number)),
    Kind.EVENTS_TWICE: lambda host, _clients, step: setattr(host.engine, "events_twice", int(step.number)),
    Kind.EVENTS_CROWDED_OUT: lambda host, _clients, step: host.engine.remember(int(step.number)),
    Kind.EVENTS_LATE: partial(_set, _engine, "event_delay"),
    Kind.SLOW_STOP: partial(_set, _engine, "term_time"),
    Kind.IMAGE_GONE: lambda host, _clients, _step: host.engine.images.clear(),
    Kind.PULL: _pull,
    Kind.BOOT_FATE: lambda host, _clients, step: host.agents.fates.extend([Fate[step.what]] * int(step.number)),
    Kind.SLOW_BOOT: partial(_set, _agents, "boot_time"),
    Kind.AGENT_MANNER: _spoil_agent,
    Kind.AGENTS_DEAF: lambda host, _clients, step: setattr(
        host.agents, "deaf_until", trio.current_time() + step.number
    ),
    Kind.AGENT_DECIDES: _decide,
    Kind.SLOW_STEP: partial(_set, _agents, "step_time"),
    Kind.DISK_FULL: lambda host, _clients, step: setattr(host, "disk_full_until", trio.current_time() + step.number),
    Kind.CLOCK_STEPS: lambda host, _clients, step: setattr(host.wall, "step", host.wall.step + step.number),
    Kind.KILL: lambda host, _clients, _step: host.kill(),
    Kind.KILL_AT: lambda host, _clients, step: setattr(host, "kill_in", int(step.number)),
    Kind.RESTART_DAEMON: lambda host, _clients, _step: host.restart_daemon(),
}
