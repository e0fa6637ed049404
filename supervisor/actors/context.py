"""What every actor is given: the ports, the journal, the settings of the moment, and chance."""

import hmac
from collections.abc import Callable, Mapping
from random import Random

import attrs

from supervisor.actors.settings import ActorSettings
from supervisor.agent.port import AgentDriver, AgentSession
from supervisor.conversation.record import ConversationRecord
from supervisor.sandbox.port import SandboxPlan, SandboxProvider, SandboxView


@attrs.frozen(eq=False)
class ActorContext:
    """Shared by all actors and changed by none.

    `engine_answers` tells, by a provider's name, whether its engine is in sight.
    """

    providers: Mapping[str, SandboxProvider]
    drivers: Mapping[str, AgentDriver]
    settings: Callable[[], ActorSettings]
    engine_answers: Callable[[str], bool]
    random: Random

    def provider(self, record: ConversationRecord) -> SandboxProvider:
        """The engine that runs this conversation's sandbox."""
        return self.providers[record.spec.provider]

    def driver(self, record: ConversationRecord) -> AgentDriver:
        """How to talk to this conversation's agent server."""
        return self.drivers[record.agent]

    def session(self, record: ConversationRecord, view: SandboxView) -> AgentSession:
        """How to reach the agent server of a sandbox that runs."""
        return AgentSession(
            conversation=record.id,
            workspace=self._workspace(record),
            published=view.published,
            direct=view.direct,
            session_key=view.session_key or sandbox_key(record),
            secret=disk_key(record),
        )

    def plan(self, record: ConversationRecord) -> SandboxPlan:
        """The sandbox that this incarnation of the record wants."""
        own = self.driver(record).environment(sandbox_key(record), disk_key(record), self._workspace(record))
        return SandboxPlan(record.id, record.incarnation, record.spec, {**record.spec.env, **own})

    def _workspace(self, record: ConversationRecord) -> str:
        return self.provider(record).workspace(record.id, record.spec)


def sandbox_key(record: ConversationRecord) -> str:
    """The session key of this incarnation's sandbox alone: one that got out with a dead sandbox opens no other."""
    given = record.sandbox.session_key if record.sandbox is not None else None
    return given or _derived(record, str(record.incarnation))


def disk_key(record: ConversationRecord) -> str:
    """What the conversation's servers encrypt with on its disk, one after the other; no sandbox's session key."""
    return _derived(record, "disk")


def _derived(record: ConversationRecord, purpose: str) -> str:
    return hmac.digest(record.session_key.encode(), purpose.encode(), "sha256").hex()
