"""How many conversations may be active at once: what is, and what was let in and is on its way to be."""

from collections.abc import Callable
from typing import Final

from supervisor.actors.creations import Creations
from supervisor.actors.handle import ConversationHandle
from supervisor.actors.mailbox import CommandMessage
from supervisor.actors.registry import Registry
from supervisor.actors.settings import CapacityLimits
from supervisor.control.service import Capacity
from supervisor.conversation.errors import CapacityExceeded
from supervisor.conversation.lifecycle import Status

_RETRY_AFTER: Final = 5.0
_ACTIVE: Final = (Status.STARTING, Status.RUNNING)


class CapacityGate:
    """Refuses what would be one too many, of those that are there and those that are being created."""

    def __init__(self, registry: Registry, limits: Callable[[], CapacityLimits], creations: Creations) -> None:
        self._registry = registry
        self._limits = limits
        self._creations = creations
        self._waking: list[tuple[ConversationHandle, CommandMessage]] = []

    def wake(self, handle: ConversationHandle, message: CommandMessage) -> None:
        """Count a conversation that a command is going to make active, from now until it is or will not be."""
        self._waking.append((handle, message))

    def require(self) -> None:
        """Let one more in.

        Raises:
            CapacityExceeded: there are as many as the config allows.
        """
        capacity = self.measure()
        for name, now, most in (
            ("max_running", capacity.running, capacity.max_running),
            ("max_starting", capacity.starting, capacity.max_starting),
        ):
            if most and now >= most:
                raise CapacityExceeded(
                    f"{now} conversations are active, which is all that [capacity] {name} allows: "
                    "stop or pause one, or ask again later",
                    _RETRY_AFTER,
                )

    def measure(self) -> Capacity:
        """What is active, and what may be."""
        census, limits, creating = self._registry.census, self._limits(), len(self._creations)
        self._waking = [(handle, message) for handle, message in self._waking if not message.reply.is_given]
        waking = {handle for handle, _ in self._waking if handle.record.status not in _ACTIVE}
        return Capacity(
            running=sum(census[status] for status in _ACTIVE) + creating + len(waking),
            starting=census[Status.STARTING] + creating,
            max_running=limits.max_running,
            max_starting=limits.max_starting,
        )
