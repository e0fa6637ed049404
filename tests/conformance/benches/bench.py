"""What every bench has: a provider, and the few things that the port does not say how to bring about."""

from collections.abc import Mapping
from typing import Final, Protocol

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import PullPolicy, SandboxSpec
from supervisor.sandbox.port import SandboxPlan, SandboxProvider

C1: Final = ConversationId("c1")
SLEEP: Final = ("sleep", "1000")


class Bench(Protocol):
    """A provider, and what tests do to its sandboxes from outside."""

    @property
    def provider(self) -> SandboxProvider:
        """The provider under test."""

    def plan(self, incarnation: int = 1) -> SandboxPlan:
        """A small sandbox of C1 that sleeps, and whose output is one line, `hello`."""

    def plan_ending(self, exit_code: int) -> SandboxPlan:
        """A sandbox of C1 that ends by itself, soon."""

    def take_name(self, name: str) -> None:
        """Let something that is not ours have a sandbox's name."""

    def kill_from_outside(self, name: str) -> None:
        """End a sandbox behind the provider's back."""


def plan_of(provider: str, image: str, command: tuple[str, ...], incarnation: int) -> SandboxPlan:
    """A small sandbox of C1."""
    env: Mapping[str, str] = {"KEY": "secret"}
    spec = SandboxSpec(
        provider=provider,
        image=image,
        pull=PullPolicy.NEVER,
        command=command,
        env=env,
        port=8000,
        user=None,
        workspace="/workspace",
        memory=64 * 1024**2,
        cpus=1.0,
        pids_limit=32,
        network="bridge",
        init=True,
    )
    return SandboxPlan(C1, incarnation, spec, env)
