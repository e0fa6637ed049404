"""The simulator, as far as there is time for it in every run of the tests: thousands of seeds, and its teeth."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.pool import Pool
from typing import Final

import pytest

from tests.simulation.kept import HOSTS, KEPT
from tests.simulation.mutants import MUTANTS, find
from tests.simulation.play import play, play_seed
from tests.simulation.script import Kind, Step, make_script, render
from tests.simulation.shrink import shrink

SEEDS: Final = 2000
_CHUNK: Final = 50


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
    missed = [found.mutant for found in workers.imap_unordered(find, MUTANTS) if found.where is None]
    assert missed == []


@pytest.mark.parametrize("name", KEPT)
def test_bug_that_was_found_stays_away(name: str) -> None:
    """On several hosts, which differ in every delay."""
    for seed in HOSTS:
        assert play(seed, KEPT[name]).problems == ()


def test_failing_script_is_made_short() -> None:
    """What is left fails in the same way, and nothing of it can be left out."""
    noise = (Step(0.3, Kind.START_NOT_WAITING, "c2"), Step(1.0, Kind.READER_LEAVES))
    needed = (Step(0.3, Kind.START, "c1"), Step(5.0, Kind.PAUSE, "c1"))
    with MUTANTS["pause without freezing"]():
        short = shrink(0, (*noise, needed[0], *noise, needed[1], *noise))
        assert short == needed
        assert play(0, short).problems[0] == "c1 became PAUSED and its container runs"


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
