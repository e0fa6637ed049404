"""`make simulate`: play many seeds in parallel, or one and see what it does."""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence

import click

from tests.simulation.play import play, play_seed
from tests.simulation.script import Step, make_script, render
from tests.simulation.shrink import shrink


@click.command(epilog="Example: python -m tests.simulation --count 100000, then --seed N for one that failed")
@click.option("--seed", type=int, help="Play this one only: print its script, shrunk if it fails.")
@click.option("--first", default=0, show_default=True, help="The first seed of many.")
@click.option("--count", default=1000, show_default=True, help="How many seeds to play.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="How many at once.")
def main(seed: int | None, first: int, count: int, jobs: int) -> None:
    """Simulate; exits with 1 if a promise was not kept."""
    if seed is not None:
        sys.exit(_one(seed))
    failed = list(_failures(range(first, first + count), jobs))
    click.echo(f"{count} seeds from {first}, {len(failed)} failed: {sorted(failed)}")
    sys.exit(1 if failed else 0)


def _failures(seeds: Sequence[int], jobs: int) -> Iterator[int]:
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for done, (seed, verdict) in enumerate(pool.imap_unordered(play_seed, seeds, chunksize=20), 1):
            if verdict.problems:
                click.echo(f"seed {seed}: {verdict.problems[0]}")
                yield seed
            if done % 1000 == 0:
                click.echo(f"{done} of {len(seeds)} played", err=True)


def _one(seed: int) -> int:
    steps: Sequence[Step] = make_script(seed)
    verdict = play(seed, steps)
    if not verdict.problems:
        click.echo(render(seed, steps))
        click.echo(f"kept every promise: {verdict.events} events, killed {verdict.kills} times")
        return 0
    steps = shrink(seed, steps)
    click.echo(render(seed, steps))
    for problem in play(seed, steps).problems:
        click.echo(f"  ! {problem}")
    return 1


if __name__ == "__main__":
    main()
