"""What the config says about how actors behave. All times are seconds."""

from pathlib import Path

import attrs

from supervisor.conversation.restart import RestartPolicy
from supervisor.conversation.spec import Allowance, SandboxSpec


@attrs.frozen
class Timeouts:
    """The config's `[timeouts]`: a deadline for each command and each phase of a start.

    A pull has no deadline of its own but the start's; `pull_stall` is the longest time without a byte.
    """

    start: float = 300.0
    pause: float = 60.0
    resume: float = 120.0
    stop: float = 60.0
    archive: float = 600.0
    grace: float = 10.0
    pull_stall: float = 60.0
    create: float = 60.0
    boot: float = 120.0
    agent: float = 60.0


@attrs.frozen
class Health:
    """The config's `[health]`: `failures` probes in a row make a sandbox unhealthy."""

    interval: float = 10.0
    timeout: float = 5.0
    failures: int = 3


@attrs.frozen
class CapacityLimits:
    """The config's `[capacity]`: more starts than these are refused; 0 is without limit."""

    max_running: int = 256
    max_starting: int = 256


@attrs.frozen
class ActorSettings:
    """Everything that can be changed while the daemon runs; a reload replaces it whole.

    With `archive_to`, archiving writes the workspace into this directory and then removes it; without, it is kept
    until the conversation is deleted.
    """

    sandbox: SandboxSpec
    allow: Allowance
    agent: str
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    restart: RestartPolicy = attrs.field(factory=RestartPolicy)
    health: Health = attrs.field(factory=Health)
    capacity: CapacityLimits = attrs.field(factory=CapacityLimits)
    archive_to: Path | None = None
