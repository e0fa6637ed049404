"""The simulator, as far as there is time for it in every run of the tests: thousands of seeds, and its teeth."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.pool import Pool
from typing import Final

import pytest

from tests.simulation.agent import Fate, Manner
from tests.simulation.docker import Fault
from tests.simulation.mutants import MUTANTS, find
from tests.simulation.play import play, play_seed
from tests.simulation.script import Kind, Step, make_script, render

SEEDS: Final = 2000
_CHUNK: Final = 50

REGRESSIONS: Final = {
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
    "a boot that runs out of memory is tried once more": (
        Step(0.0, Kind.BOOT_FATE, Fate.OUT_OF_MEMORY.name, 2.0),
        Step(0.1, Kind.START, "c1"),
    ),
}
"""What simulated seeds have found, made short, and what is close to it."""


@pytest.fixture(scope="module")
def workers() -> Iterator[Pool]:
    """One process for each core."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        yield pool


def test_every_promise_is_kept(workers: Pool) -> None:
    """Whatever happens to the host, in whatever order: each of these seeds is another story."""
    failed = []
    for seed, verdict in workers.imap_unordered(play_seed, range(SEEDS), _CHUNK):
        if verdict.problems:
            failed.append(f"{render(seed, make_script(seed))}\n  ! {verdict.problems[0]}")
    assert not failed, "\n".join([*failed, "play one again, made short: make simulate SEED=n"])


def test_planted_bugs_are_found(workers: Pool) -> None:
    """Each of them, or the simulator has no teeth."""
    missed = [found.mutant for found in workers.imap_unordered(find, MUTANTS) if found.seed is None]
    assert missed == []


@pytest.mark.parametrize("name", REGRESSIONS)
def test_bug_that_was_found_stays_away(name: str) -> None:
    """On several hosts, which differ in every delay."""
    for seed in range(5):
        assert play(seed, REGRESSIONS[name]).problems == ()


def test_seed_replays_exactly() -> None:
    """In this process and in another one, whose hashes and addresses differ."""
    code = (
        "from tests.simulation.play import play\nfrom tests.simulation.script import make_script\n"
        "print([play(seed, make_script(seed)).digest for seed in range(6)])"
    )
    there = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    first = [play_seed(seed)[1].digest for seed in range(6)]
    assert first == [play_seed(seed)[1].digest for seed in range(6)]
    assert there == f"{first}\n"
