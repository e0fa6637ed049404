"""What a process holds: memory, descriptors and threads, from the kernel."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

_MIB: Final = 2**20


@attrs.frozen
class Holding:
    """`memory` is resident bytes."""

    memory: int
    descriptors: int
    threads: int

    def __str__(self) -> str:
        return f"{self.memory / _MIB:.1f} MiB, {self.descriptors} descriptors, {self.threads} threads"


@attrs.frozen
class Tolerance:
    """How much more a process may hold at the end than after its warm-up. `memory` is a factor."""

    memory: float
    descriptors: int = 8
    threads: int = 8

    def __str__(self) -> str:
        return f"tolerated: {self.memory - 1:.0%} memory, {self.descriptors} descriptors, {self.threads} threads"

    def exceeded(self, before: Holding, after: Holding) -> list[str]:
        """A sentence for everything that grew by more."""
        grown = []
        if after.memory > before.memory * self.memory:
            grown.append(f"memory grew from {before.memory / _MIB:.1f} to {after.memory / _MIB:.1f} MiB")
        if after.descriptors > before.descriptors + self.descriptors:
            grown.append(f"descriptors grew from {before.descriptors} to {after.descriptors}")
        if after.threads > before.threads + self.threads:
            grown.append(f"threads grew from {before.threads} to {after.threads}")
        return grown


def holding(pid: int) -> Holding:
    """What a process holds now."""
    process = Path("/proc") / str(pid)
    fields = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    descriptors = sum(1 for _ in (process / "fd").iterdir())
    return Holding(int(fields["VmRSS"].split()[0]) * 1024, descriptors, int(fields["Threads"]))


def typical(samples: Sequence[Holding]) -> Holding:
    """The median of each."""
    return Holding(
        round(statistics.median(one.memory for one in samples)),
        round(statistics.median(one.descriptors for one in samples)),
        round(statistics.median(one.threads for one in samples)),
    )
