"""What the engine's events tell of a sandbox's end, for the moment in which the engine itself tells nothing.

When a container ends, the engine says so at once but then holds the container's lock while it takes down the network:
an inspection waits some 50 ms for that. The event already has the exit code, so for that moment it is the answer.
"""

from typing import Final

import attrs

from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.docker.names import Names
from supervisor.sandbox.docker.views import EngineJson
from supervisor.sandbox.port import SandboxState, SandboxView

FRESH: Final = 0.25
"""Seconds for which an event stands for an inspection."""

_ROUNDING: Final = 0.001

CHANGES: Final = ("die", "oom", "destroy", "pause", "unpause", "start", "stop", "rename", "update", "health_status")
"""The engine's events after which a sandbox should be looked at."""

HEARD: Final = (*CHANGES, "kill")

_KILLED: Final = 137
_SIGKILL: Final = ("9", "SIGKILL")


@attrs.define
class Endings:
    """Remembers ends that are certain, by container name. Times are Trio's."""

    names: Names
    _began: float = float("-inf")
    _ended: dict[str, tuple[float, SandboxView]] = attrs.field(factory=dict)
    _oom_killed: set[str] = attrs.field(factory=set)
    _sigkilled: set[str] = attrs.field(factory=set)

    def hear(self, event: EngineJson, now: float, wall: float) -> ConversationId | None:
        """Take in an event; answers with the conversation whose sandbox should be looked at, if any.

        `wall` is the wall clock's time now, in seconds. It shows that an event is repeated and old: such a death says
        nothing about a container that may have been started again, or be gone, since.
        """
        actor = event["Actor"]
        name, action = actor["Attributes"].get("name", ""), event["Action"].partition(":")[0]
        ownership = self.names.read_ownership(name, actor["Attributes"])
        if action == "rename":
            ownership = self.names.read_ownership(actor["Attributes"]["oldName"].removeprefix("/"), actor["Attributes"])
        if ownership is None:
            return None
        self._note(name, action, actor, self._date(event, now, wall))
        return ownership.conversation if action in CHANGES else None

    def recall(self, name: str, now: float) -> SandboxView | None:
        """The sandbox as it ended, if that was a moment ago."""
        ended_at, view = self._ended.get(name, (now - FRESH, None))
        return view if now - ended_at < FRESH else None

    def forget(self, name: str) -> None:
        """It is about to change."""
        self._ended.pop(name, None)

    def begin(self, now: float) -> None:
        """A stream of events begins; what it tells of before is repeated."""
        self._began = now

    def forget_all(self) -> None:
        """Events may be missed from now on."""
        self._ended.clear()
        self._oom_killed.clear()
        self._sigkilled.clear()

    def _date(self, event: EngineJson, now: float, wall: float) -> float | None:
        """When it happened; None if that cannot be told.

        If it is still to come by the wall clock, that clock was stepped back, or is not the engine's. And such a step
        makes what happened before the stream began look like news.
        """
        at = now - (wall - event.get("timeNano", 0) / 1e9)
        return at if self._began <= at <= now + _ROUNDING else None

    def _note(self, name: str, action: str, actor: EngineJson, at: float | None) -> None:
        container = actor["ID"]
        if action == "oom":
            self._oom_killed.add(container)
        elif action == "kill" and actor["Attributes"].get("signal") in _SIGKILL:
            self._sigkilled.add(container)
        elif action == "die":
            self._note_end(name, actor, at)
        elif action in ("start", "destroy", "rename"):
            self.forget(name)
            self._forget_causes(container)

    def _note_end(self, name: str, actor: EngineJson, at: float | None) -> None:
        container, exit_code = actor["ID"], int(actor["Attributes"].get("exitCode", _KILLED))
        oom = container in self._oom_killed
        # Killed by nobody we know: the kernel's word that it was out of memory may still be on its way to the engine.
        explained = exit_code != _KILLED or oom or container in self._sigkilled
        if at is not None and explained:
            image = actor["Attributes"].get("image", "")
            view = SandboxView(container, name, image, SandboxState.EXITED, exit_code=exit_code, oom_killed=oom)
            self._ended[name] = (at, view)
        self._forget_causes(container)

    def _forget_causes(self, container: str) -> None:
        self._oom_killed.discard(container)
        self._sigkilled.discard(container)
