"""Scripts that are kept: what simulated seeds have found, made short, and what is close to it."""

from collections.abc import Mapping, Sequence
from typing import Final

from tests.simulation.agent import Fate, Manner
from tests.simulation.docker import Fault
from tests.simulation.script import Kind, Step

HOSTS: Final = range(5)
"""The seeds that each is played with: hosts which differ in every delay."""


def _deleted_before_it_comes(op: str) -> Sequence[Step]:
    """A conversation that is gone when a call that it has asked for is carried out."""
    return (
        Step(0.0, Kind.CALL_FAULT, f"{op} {Fault.LATE.name}", 1.0),
        Step(0.1, Kind.START_NOT_WAITING, "c1"),
        Step(1.0, Kind.FORCE_STOP, "c1"),
        Step(0.0, Kind.DELETE, "c1"),
    )


KEPT: Final[Mapping[str, Sequence[Step]]] = {
    "a container that somebody renamed is not dead": (Step(0.6, Kind.START, "c1"), Step(10.0, Kind.RENAMED, "c1")),
    "a forced stop ends what a start that timed out has left": (
        Step(0.3, Kind.START_NOT_WAITING, "c3", 0.5),
        Step(0.0, Kind.CALL_FAULT, f"remove {Fault.NOT_SENT.name}", 1.0),
        Step(0.8, Kind.FORCE_STOP, "c3"),
    ),
    "a boot that is refused and cannot be killed still ends": (
        Step(0.0, Kind.CALL_FAULT, f"kill {Fault.TAKEN.name}", 1.0),
        Step(0.0, Kind.AGENT_MANNER, f"begin {Manner.REFUSES.name}", 1.0),
        Step(0.3, Kind.START, "c1"),
    ),
    "what was asked before a forced stop does not undo it": (
        Step(1.0, Kind.START_NOT_WAITING, "c3"),
        Step(0.6, Kind.FORCE_RESTART, "c3"),
        Step(0.0, Kind.RESTART, "c3"),
        Step(0.0, Kind.FORCE_STOP, "c3"),
    ),
    "a delete without a sandbox is carried on with": (
        Step(0.3, Kind.START, "c3"),
        Step(0.01, Kind.CALL_FAULT, f"volume {Fault.NOT_SENT.name}", 5.0),
        Step(0.0, Kind.FORCE_STOP, "c3"),
        Step(1.0, Kind.DELETE, "c3"),
    ),
    "an agent goes on if its pause was killed half way": (
        Step(0.5, Kind.START, "c1"),
        Step(3.0, Kind.CALL_FAULT, f"pause {Fault.HANGS.name}", 1.0),
        Step(0.0, Kind.PAUSE, "c1"),
        Step(1.0, Kind.KILL),
    ),
    "a command that comes just before its start makes no second actor": tuple(
        step
        for conversation in ("c1", "c2", "c3")
        for step in (Step(1.0, Kind.STOP, conversation), Step(0.0, Kind.START, conversation))
    ),
    "nobody overtakes who waits for a conversation to be made": tuple(
        step
        for conversation, first in (("c1", Kind.ARCHIVE), ("c2", Kind.START_WITH_KEY), ("c3", Kind.START))
        for step in (
            Step(1.0, first, conversation),
            Step(0.0, Kind.START, conversation),
            Step(0.0, Kind.RESTART, conversation),
            Step(0.0, Kind.FORCE_STOP, conversation),
        )
    ),
    "an end that is told again after the clock was stepped back is no news": (
        Step(0.1, Kind.START, "c1"),
        Step(5.0, Kind.EVENTS_LOST, "", 20.0),
        *(Step(0.1, Kind.RESTARTED, "c1") for _ in range(4)),
        Step(5.0, Kind.EVENTS_LOST, ""),
        *(
            step
            for _ in range(8)
            for step in (
                Step(5.0, Kind.CLOCK_STEPS, "", -3600.0),
                Step(0.0, Kind.ENGINE_FALLS),
                Step(1.0, Kind.ENGINE_RISES),
            )
        ),
    ),
    "a start that comes late finds nothing after a forced stop": (
        Step(0.0, Kind.CALL_FAULT, f"start {Fault.LATE.name}", 1.0),
        Step(0.1, Kind.START, "c1"),
        Step(10.0, Kind.STOP, "c1"),
        Step(0.0, Kind.EVENTS_LOST, "", 50.0),
        *(Step(2.0, Kind.FORCE_STOP, "c1") for _ in range(16)),
    ),
    "a start that comes late from a dead daemon finds nothing after a forced stop": (
        Step(0.0, Kind.CALL_FAULT, f"start {Fault.LATE.name}", 1.0),
        Step(0.1, Kind.START, "c1"),
        Step(2.0, Kind.KILL),
        Step(10.0, Kind.STOP, "c1"),
        Step(0.0, Kind.EVENTS_LOST, "", 50.0),
        *(Step(2.0, Kind.FORCE_STOP, "c1") for _ in range(16)),
    ),
    "a create that fails unheard vouches for nothing that a dead daemon left": (
        Step(0.0, Kind.CALL_FAULT, f"start {Fault.LATE.name}", 1.0),
        Step(0.1, Kind.START, "c1"),
        Step(1.0, Kind.CALL_FAULT, f"create {Fault.NOT_SENT.name}", 1.0),
        Step(1.0, Kind.KILL),
        Step(10.0, Kind.STOP, "c1"),
        Step(0.0, Kind.EVENTS_LOST, "", 50.0),
        *(Step(2.0, Kind.FORCE_STOP, "c1") for _ in range(16)),
    ),
    "a stray is not removed while a restart takes it over": (
        Step(0.0, Kind.CALL_FAULT, f"create {Fault.LATE.name}", 1.0),
        Step(0.1, Kind.START, "c1", 0.5),
        Step(40.0, Kind.ENGINE_FALLS),
        Step(0.5, Kind.ENGINE_RISES),
        Step(0.3, Kind.RESTART, "c1"),
    ),
    "what its engine has forgotten is started anew": (
        Step(0.1, Kind.START, "c1"),
        Step(5.0, Kind.PAUSE, "c1"),
        Step(5.0, Kind.ENGINE_FORGETS),
        Step(1.0, Kind.RESUME, "c1"),
    ),
    "what a hanging engine was asked for finds nothing after a forced stop": (
        Step(0.1, Kind.START, "c1", 3.0),
        Step(0.3, Kind.ENGINE_HANGS),
        Step(20.0, Kind.KILL),
        Step(5.0, Kind.STOP, "c1"),
        Step(20.0, Kind.ENGINE_RISES),
        *(Step(0.5, Kind.FORCE_STOP, "c1") for _ in range(8)),
    ),
    "an end that the engine's history no longer has is seen": (
        Step(0.1, Kind.START, "c1"),
        Step(5.0, Kind.EVENTS_CROWDED_OUT),
        Step(0.0, Kind.ENGINE_FALLS),
        Step(0.5, Kind.DIES, "c1", 143.0),
        Step(0.1, Kind.ENGINE_RISES),
    ),
    "an agent goes on if nobody hears that it was paused": (
        Step(0.1, Kind.START, "c1"),
        Step(5.0, Kind.AGENT_DECIDES, "c1 idle"),
        Step(3.0, Kind.AGENT_MANNER, f"follow {Manner.FAILS.name}", 5.0),
        Step(0.1, Kind.AGENT_DECIDES, "c1 running"),
        Step(0.5, Kind.AGENT_MANNER, f"pause {Manner.LOSES.name}", 1.0),
        Step(0.1, Kind.PAUSE, "c1"),
        Step(0.5, Kind.PAUSE, "c1"),
        Step(3.0, Kind.RESUME, "c1"),
    ),
    "what a resume that timed out has asked for is the next one's": (
        Step(0.1, Kind.START, "c1"),
        Step(5.0, Kind.PAUSE, "c1"),
        Step(5.0, Kind.DIES, "c1", 1.0),
        Step(1.0, Kind.CALL_FAULT, f"create {Fault.LATE.name}", 1.0),
        Step(0.0, Kind.RESUME, "c1", 3.0),
        *(Step(4.0, Kind.FORCE_RESTART, "c1") for _ in range(4)),
    ),
    "a workspace that comes late goes as its conversation went": _deleted_before_it_comes("volume"),
    "a start that comes late finds nothing if its image is gone": (
        Step(0.0, Kind.CALL_FAULT, f"start {Fault.LATE.name}", 1.0),
        Step(0.1, Kind.START_NOT_WAITING, "c1"),
        Step(5.0, Kind.PULL, "fail"),
        Step(60.0, Kind.IMAGE_GONE),
    ),
    "a delete that comes with an archive is carried on with": (
        Step(0.1, Kind.START, "c1"),
        Step(5.0, Kind.STOP, "c1"),
        Step(5.0, Kind.CALL_FAULT, f"volume {Fault.REPLY_LOST.name}", 5.0),
        Step(0.0, Kind.ARCHIVE, "c1"),
        Step(0.0, Kind.DELETE, "c1"),
        Step(5.0, Kind.READER_LEAVES),
    ),
    "what a start that timed out has asked for is the next restart's": (
        Step(0.1, Kind.CALL_FAULT, f"create {Fault.LATE.name}", 1.0),
        Step(0.0, Kind.CALL_FAULT, f"inspect {Fault.FAILED_AFTER.name}", 3.0),
        Step(0.1, Kind.START, "c1", 0.5),
        *(Step(4.0, Kind.RESTART, "c1") for _ in range(4)),
    ),
    "a workspace that comes late with its container goes with it": _deleted_before_it_comes("create"),
    "a boot that runs out of memory is tried once more": (
        Step(0.0, Kind.BOOT_FATE, Fate.OUT_OF_MEMORY.name, 2.0),
        Step(0.1, Kind.START, "c1"),
    ),
}
"""By what it shows, which is kept for ever."""
