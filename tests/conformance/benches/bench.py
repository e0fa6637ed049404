"""What every bench has: a provider, and the few things that the port does not say how to bring about."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import attrs

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import PullPolicy, SandboxSpec
from supervisor.sandbox.port import SandboxPlan, SandboxProvider

C1: Final = ConversationId("c1")
SLEEP: Final = ("sleep", "1000")


@attrs.frozen
class Promises:
    """What an engine may be without: where it is, the tests say what holds instead."""

    keeps_what_ended: bool = True
    keeps_workspaces: bool = True
    tells_exit_codes: bool = True
    tells_output: bool = True
    exports: bool = True
    knows_foreign: bool = True
    has_images: bool = True
    can_be_away: bool = True


ALL_PROMISES: Final = Promises()


class Bench(Protocol):
    """A provider, and what tests do to its sandboxes from outside."""

    @property
    def provider(self) -> SandboxProvider:
        """The provider under test."""

    @property
    def promises(self) -> Promises:
        """What this engine promises beside what all do."""

    def plan(self, incarnation: int = 1) -> SandboxPlan:
        """A small sandbox of C1 that sleeps, and whose output is one line, `hello`."""

    def plan_ending(self, exit_code: int) -> SandboxPlan:
        """A sandbox of C1 that ends by itself, soon."""

    def take_name(self, name: str) -> None:
        """Let something that is not ours have a sandbox's name."""

    def kill_from_outside(self, name: str) -> None:
        """End a sandbox behind the provider's back."""

    def away(self) -> AbstractAsyncContextManager[SandboxProvider]:
        """A provider of the same owner while its engine does not answer, as far as that can be."""


class RealBench(Bench, Protocol):
    """One whose sandboxes are real processes, which can be given a shell script."""

    def another(self) -> AbstractAsyncContextManager[SandboxProvider]:
        """A second provider of the same owner, as a daemon has that was started again."""

    def remains(self) -> list[str]:
        """Whatever is left of this owner anywhere, in words."""


def plan_script(bench: Bench, script: str, incarnation: int = 1, **env: str) -> SandboxPlan:
    """A sandbox that runs a shell script with these further variables."""
    plan = bench.plan(incarnation)
    spec = attrs.evolve(plan.spec, command=("sh", "-c", script), env={**plan.env, **env})
    return SandboxPlan(plan.conversation, incarnation, spec, spec.env)


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
