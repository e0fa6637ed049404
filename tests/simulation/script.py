"""Scripts: what happens to a daemon and its host, step by step, as data that a seed makes and a person can read."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from random import Random
from typing import Final

import attrs

from supervisor.conversation.lifecycle import Act, Command, Status, decide
from tests.simulation.agent import Fate, Manner
from tests.simulation.docker import Fault


class Kind(StrEnum):
    """What a step does. `what` and `number` mean what the kind says."""

    START = "start"  # conversation; number: seconds until its deadline, 0 for none
    START_NOT_WAITING = "start, wait: false"
    START_WITH_KEY = "start with an idempotency key"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    FORCE_STOP = "force stop"
    RESTART = "restart"
    FORCE_RESTART = "force restart"
    ARCHIVE = "archive"
    DELETE = "delete"
    HANG_UP = "all clients hang up"
    READER_LEAVES = "the subscriber loses its connection"
    ENGINE_FALLS = "the engine goes away"
    ENGINE_HANGS = "the engine hangs"
    ENGINE_RISES = "the engine answers again"
    ENGINE_RESTARTS = "the engine is killed and restarted"
    ENGINE_RESTARTS_LIVE = "the engine is killed and restarted with live-restore"
    # what: a conversation whose container somebody has just frozen
    ENGINE_FORGETS = "the engine is killed and restarted, and takes frozen containers for ended"
    CALL_FAULT = "a call goes wrong"  # what: op, then the fault
    EVENTS_LOST = "events are lost"
    EVENTS_TWICE = "events come twice"
    EVENTS_CROWDED_OUT = "other containers' events leave room in the engine's history for"
    EVENTS_LATE = "events come late"
    SLOW_STOP = "containers ignore SIGTERM for"
    DIES = "its container exits"  # what: conversation, number: the exit code
    OUT_OF_MEMORY = "its container is killed for its memory"
    CHILD_OUT_OF_MEMORY = "a child in its container is killed for its memory"
    FROZEN = "somebody freezes its container"
    THAWED = "somebody thaws its container"
    REMOVED = "somebody removes its container"
    RENAMED = "somebody renames its container"
    RESTARTED = "somebody restarts its container"
    IMAGE_GONE = "the image is removed"
    PULL = "the image is removed, and the next pulls"  # what: how
    BOOT_FATE = "the next agent server"  # what: the fate
    SLOW_BOOT = "agent servers boot for"
    AGENT_MANNER = "the agent server"  # what: the request, then the manner
    AGENTS_DEAF = "no agent server answers for"
    AGENT_DECIDES = "its agent"  # what: conversation, then what it does
    SLOW_STEP = "an agent's step takes"
    DISK_FULL = "the disk is full for"
    CLOCK_STEPS = "the wall clock is stepped by"
    KILL = "the daemon is killed"
    KILL_AT = "the daemon is killed at the moment"  # number: counted from now
    RESTART_DAEMON = "the daemon is restarted"


@attrs.frozen
class Step:
    """After `wait` seconds, something happens."""

    wait: float
    kind: Kind
    what: str = ""
    number: float = 0.0

    def __str__(self) -> str:
        words = [f"{self.wait:g} s later:", str(self.kind), self.what, f"{self.number:g}" if self.number else ""]
        return " ".join(word for word in words if word)


@attrs.frozen
class Effect:
    """What a command is, and how its conversation is after it; None: gone."""

    command: Command
    after: Status | None
    force: bool = False


EFFECTS: Final[Mapping[Kind, Effect]] = {
    Kind.START: Effect(Command.START, Status.RUNNING),
    Kind.START_NOT_WAITING: Effect(Command.START, Status.RUNNING),
    Kind.START_WITH_KEY: Effect(Command.START, Status.RUNNING),
    Kind.PAUSE: Effect(Command.PAUSE, Status.PAUSED),
    Kind.RESUME: Effect(Command.RESUME, Status.RUNNING),
    Kind.STOP: Effect(Command.STOP, Status.STOPPED),
    Kind.FORCE_STOP: Effect(Command.STOP, Status.STOPPED, force=True),
    Kind.RESTART: Effect(Command.RESTART, Status.RUNNING),
    Kind.FORCE_RESTART: Effect(Command.RESTART, Status.RUNNING, force=True),
    Kind.ARCHIVE: Effect(Command.ARCHIVE, Status.ARCHIVED),
    Kind.DELETE: Effect(Command.DELETE, None),
}
SLOWNESS: Final = (Kind.SLOW_BOOT, Kind.SLOW_STOP, Kind.SLOW_STEP)
"""What takes its time without being a fault: deadlines are kept to the second all the same."""

_FITTING: Final = 6
_DEADLINES: Final = (0.0, 0.0, 0.0, 0.5, 3.0, 1000.0)
CONVERSATIONS: Final = ("c1", "c2", "c3")
PULLS: Final = ("crawl", "stall", "fail")
_EXIT_CODES: Final = (0, 1, 126, 127, 137, 139, 143)
_REQUESTS: Final = ("ready", "probe", "begin", "begin", "pause", "pause", "run", "run", "interrupt", "follow")
_MANNERS: Final[Mapping[Manner, int]] = {
    Manner.REFUSES: 1,
    Manner.CONFLICTS: 1,
    Manner.IS_FULL: 2,
    Manner.FAILS: 2,
    Manner.GARBLES: 2,
    Manner.LOSES: 3,
    Manner.HANGS: 2,
}
_DECISIONS: Final = ("finished", "idle", "waiting_for_confirmation", "running")


@attrs.frozen
class Mix:
    """What scripts of one sort are drawn from: kinds by their weights, and what comes twice twice as often.

    `calm` is the share of scripts without faults, `busy` that of commands among their steps.
    """

    calm: float
    busy: float
    commands: Mapping[Kind, int]
    faults: Mapping[Kind, int]
    waits: Sequence[float]
    conversations: Sequence[str]
    operations: Sequence[str]
    call_faults: Sequence[Fault]


BROAD: Final = Mix(
    calm=0.15,
    busy=0.5,
    commands={
        Kind.START: 6,
        Kind.START_NOT_WAITING: 2,
        Kind.START_WITH_KEY: 2,
        Kind.PAUSE: 5,
        Kind.RESUME: 4,
        Kind.STOP: 3,
        Kind.FORCE_STOP: 3,
        Kind.RESTART: 3,
        Kind.FORCE_RESTART: 2,
        Kind.ARCHIVE: 1,
        Kind.DELETE: 2,
    },
    faults={
        Kind.HANG_UP: 2,
        Kind.READER_LEAVES: 2,
        Kind.ENGINE_FALLS: 2,
        Kind.ENGINE_HANGS: 1,
        Kind.ENGINE_RISES: 3,
        Kind.ENGINE_RESTARTS: 1,
        Kind.ENGINE_RESTARTS_LIVE: 1,
        Kind.ENGINE_FORGETS: 2,
        Kind.CALL_FAULT: 8,
        Kind.EVENTS_LOST: 2,
        Kind.EVENTS_TWICE: 1,
        Kind.EVENTS_CROWDED_OUT: 2,
        Kind.EVENTS_LATE: 1,
        Kind.SLOW_STOP: 1,
        Kind.DIES: 4,
        Kind.OUT_OF_MEMORY: 1,
        Kind.CHILD_OUT_OF_MEMORY: 3,
        Kind.FROZEN: 1,
        Kind.THAWED: 1,
        Kind.REMOVED: 1,
        Kind.RENAMED: 1,
        Kind.IMAGE_GONE: 1,
        Kind.PULL: 2,
        Kind.BOOT_FATE: 3,
        Kind.SLOW_BOOT: 1,
        Kind.AGENT_MANNER: 12,
        Kind.AGENTS_DEAF: 1,
        Kind.AGENT_DECIDES: 1,
        Kind.SLOW_STEP: 1,
        Kind.DISK_FULL: 1,
        Kind.CLOCK_STEPS: 1,
        Kind.KILL: 2,
        Kind.KILL_AT: 6,
        Kind.RESTART_DAEMON: 1,
    },
    waits=(0.0, 0.0, 0.002, 0.01, 0.05, 0.1, 0.3, 0.6, 1.0, 2.0, 5.0, 10.0, 40.0),
    conversations=CONVERSATIONS,
    operations=(
        "create",
        "start",
        "inspect",
        "list",
        "pause",
        "unpause",
        "stop",
        "kill",
        "remove",
        "volume",
        "events",
        "image",
        "logs",
        "ping",
        "pull",
        "info",
        "version",
        "rename",
    ),
    call_faults=tuple(Fault),
)
"""Whatever can happen on a host."""

HASTY: Final = Mix(
    calm=0.0,
    busy=0.65,
    commands={
        Kind.START: 4,
        Kind.START_NOT_WAITING: 2,
        Kind.START_WITH_KEY: 4,
        Kind.PAUSE: 1,
        Kind.RESUME: 1,
        Kind.STOP: 2,
        Kind.FORCE_STOP: 6,
        Kind.RESTART: 4,
        Kind.FORCE_RESTART: 2,
        Kind.ARCHIVE: 1,
        Kind.DELETE: 2,
    },
    faults={
        Kind.HANG_UP: 1,
        Kind.ENGINE_FALLS: 1,
        Kind.ENGINE_HANGS: 1,
        Kind.ENGINE_RISES: 2,
        Kind.CALL_FAULT: 10,
        Kind.EVENTS_LOST: 3,
        Kind.RESTARTED: 2,
        Kind.DISK_FULL: 2,
        Kind.CLOCK_STEPS: 3,
        Kind.KILL: 3,
        Kind.KILL_AT: 3,
        Kind.RESTART_DAEMON: 2,
    },
    waits=(0.0, 0.0, 0.0, 0.0, 0.002, 0.01, 0.05, 0.3, 1.0, 2.0, 10.0, 20.0),
    conversations=("c1", "c1", "c2"),
    operations=("start", "start", "create", "inspect", "kill", "remove", "volume", "info"),
    call_faults=(*Fault, Fault.LATE, Fault.LATE),
)
"""Starts and forced stops on each other's heels, over calls whose effects come late and a daemon that is killed."""


def mix_of(seed: int) -> Mix:
    """Every fourth seed is hasty."""
    return HASTY if seed % 4 == 3 else BROAD


def make_script(seed: int) -> tuple[Step, ...]:
    """The script of a seed."""
    dice, mix = Random(seed), mix_of(seed)
    calm = dice.random() < mix.calm
    length = dice.randrange(4, 28)
    presumed: dict[str, Status | None] = {}
    steps = [_make_command(dice, mix, presumed)]
    for _ in range(length):
        if dice.random() < mix.busy:
            steps.append(_make_command(dice, mix, presumed))
        elif calm:
            steps.append(_make_step(dice, mix, dice.choice(SLOWNESS)))
        else:
            (kind,) = dice.choices(list(mix.faults), list(mix.faults.values()))
            steps.append(_make_step(dice, mix, kind))
    return tuple(steps)


def render(seed: int, steps: Sequence[Step]) -> str:
    """A script as a person reads it."""
    return "\n".join([f"seed {seed}:", *(f"  {number:2}. {step}" for number, step in enumerate(steps, 1))])


def _make_command(dice: Random, mix: Mix, presumed: dict[str, Status | None]) -> Step:
    """Mostly one that has an effect, if all before it had theirs; a story of refusals is a short one."""
    conversation = dice.choice(mix.conversations)
    status = presumed.get(conversation)
    weights = [weight * (_FITTING if _fits(kind, status) else 1) for kind, weight in mix.commands.items()]
    (kind,) = dice.choices(list(mix.commands), weights)
    if _fits(kind, status):
        presumed[conversation] = EFFECTS[kind].after
    return Step(dice.choice(mix.waits), kind, conversation, dice.choice(_DEADLINES))


def _fits(kind: Kind, status: Status | None) -> bool:
    effect = EFFECTS[kind]
    if status is None:
        return effect.command is Command.START
    return isinstance(decide(effect.command, status, force=effect.force), Act)


def _make_step(dice: Random, mix: Mix, kind: Kind) -> Step:
    wait = dice.choice(mix.waits)
    what, number = _DETAILS.get(kind, _nothing)(dice, mix)
    return Step(wait, kind, what, number)


def _nothing(_dice: Random, _mix: Mix) -> tuple[str, float]:
    return "", 0.0


def _of_a_conversation(dice: Random, mix: Mix) -> tuple[str, float]:
    return dice.choice(mix.conversations), 0.0


def _call_fault(dice: Random, mix: Mix) -> tuple[str, float]:
    return f"{dice.choice(mix.operations)} {dice.choice(mix.call_faults).name}", dice.choice((1.0, 1.0, 1.0, 2.0, 5.0))


def _death(dice: Random, mix: Mix) -> tuple[str, float]:
    return dice.choice(mix.conversations), dice.choice(_EXIT_CODES)


def _agent_manner(dice: Random, _: Mix) -> tuple[str, float]:
    (manner,) = dice.choices(list(_MANNERS), list(_MANNERS.values()))
    return f"{dice.choice(_REQUESTS)} {manner.name}", dice.choice((1.0, 1.0, 2.0, 5.0))


def _boot_fate(dice: Random, _: Mix) -> tuple[str, float]:
    return dice.choice(list(Fate)).name, dice.choice((1.0, 1.0, 2.0, 4.0))


def _decision(dice: Random, mix: Mix) -> tuple[str, float]:
    return f"{dice.choice(mix.conversations)} {dice.choice(_DECISIONS)}", 0.0


def _one_of(*numbers: float) -> Callable[[Random, Mix], tuple[str, float]]:
    return lambda dice, _: ("", dice.choice(numbers))


_DETAILS: Final[Mapping[Kind, Callable[[Random, Mix], tuple[str, float]]]] = {
    **dict.fromkeys([Kind.OUT_OF_MEMORY, Kind.CHILD_OUT_OF_MEMORY], _of_a_conversation),
    **dict.fromkeys([Kind.FROZEN, Kind.THAWED], _of_a_conversation),
    **dict.fromkeys([Kind.REMOVED, Kind.RENAMED, Kind.RESTARTED], _of_a_conversation),
    Kind.DIES: _death,
    Kind.ENGINE_FORGETS: lambda dice, mix: (dice.choice(("", *mix.conversations)), 0.0),
    Kind.CALL_FAULT: _call_fault,
    Kind.AGENT_MANNER: _agent_manner,
    Kind.BOOT_FATE: _boot_fate,
    Kind.AGENT_DECIDES: _decision,
    Kind.PULL: lambda dice, _: (dice.choice(PULLS), 0.0),
    Kind.EVENTS_LOST: _one_of(1, 2, 5, 50),
    Kind.EVENTS_TWICE: _one_of(1, 2, 5, 50),
    Kind.EVENTS_CROWDED_OUT: _one_of(0, 1, 2, 5),
    Kind.EVENTS_LATE: _one_of(0.05, 1.0, 20.0, 0.0),
    Kind.SLOW_STOP: _one_of(0.1, 1.0, 4.0, 30.0),
    Kind.SLOW_STEP: _one_of(0.1, 1.0, 4.0, 30.0),
    Kind.SLOW_BOOT: _one_of(0.1, 1.0, 4.0, 30.0),
    Kind.AGENTS_DEAF: _one_of(0.5, 5.0, 30.0, 100.0),
    Kind.DISK_FULL: _one_of(0.5, 5.0, 30.0, 100.0),
    Kind.CLOCK_STEPS: _one_of(3600.0, -3600.0, 30.0, -30.0),
    Kind.KILL_AT: _one_of(*range(1, 40)),
}
