"""`make bench`: the daemon beside the raw engine, interleaved in one run, as a table of ratios."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs
import click
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import connect
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from supervisor.journal.changes import Create
from supervisor.journal.store import Store
from tests.benchmarks.channel import round_trips
from tests.benchmarks.kinds import daemon_of_all_kinds, measure_kinds
from tests.benchmarks.raw import RawEngine
from tests.benchmarks.report import Finding, milliseconds, print_table
from tests.benchmarks.rest import gets, pauses
from tests.benchmarks.sandboxes import Sides, end, serving_config, serving_spec
from tests.daemon_process import AS_THE_UNIT, DaemonProcess, running_daemon
from tests.engine_host import running_engine
from tests.http_door import HTTP, http_door
from tests.tiny_image import static_busybox, tiny_image


@attrs.frozen
class Sizes:
    """How much of everything."""

    rounds: int = 20
    crowds: tuple[int, ...] = (20, 50)
    crowd_rounds: int = 3
    actors: int = 10_000
    recorded: int = 1000
    running: int = 50
    stalls: int = 5


QUICK = Sizes(rounds=2, crowds=(3,), crowd_rounds=1, actors=100, recorded=20, running=2, stalls=1)


@click.command(epilog="Example: python -m tests.benchmarks --quick")
@click.option("--quick", is_flag=True, help="Small numbers: shows that it works, measures nothing.")
def main(quick: bool) -> None:
    """Measure the daemon beside the raw engine; exits with 1 if a goal is not met."""
    findings = measure(QUICK if quick else Sizes())
    print_table(findings)
    if not quick and not all(finding.met for finding in findings):
        sys.exit(1)


def measure(sizes: Sizes) -> Sequence[Finding]:
    """Measure everything."""
    findings: list[Finding] = []
    with running_engine() as base_url, tiny_image(base_url) as image, tempfile.TemporaryDirectory() as scratch:
        config = serving_config(image) + "[capacity]\nmax_running = 0\nmax_starting = 0\n"
        environ = {"DOCKER_HOST": base_url}
        with running_daemon(config + HTTP, environ) as daemon:
            findings += trio.run(_through_the_daemon, daemon, base_url, image, Path(scratch), sizes)
        with running_daemon(config, environ) as daemon:
            findings.append(trio.run(_start_up, daemon, image, sizes))
        _progress("kinds of sandboxes")
        with daemon_of_all_kinds(image, environ) as daemon:
            findings += trio.run(measure_kinds, daemon.socket, static_busybox(Path(scratch)), sizes.rounds)
        _progress("stalls and memory")
        crowd = sizes.crowds[-1]
        findings += _stall(
            [_inside(AS_THE_UNIT, environ, "stall", image, str(crowd)) for _ in range(sizes.stalls)], crowd
        )
    (memory,) = _inside((), {}, "memory", str(sizes.actors))
    memory /= 1024
    findings.append(
        Finding(f"memory of an idle actor, of {sizes.actors}", f"{memory:.1f} KiB", "", memory, 24.0, "KiB")
    )
    return findings


async def _through_the_daemon(
    daemon: DaemonProcess, base_url: str, image: str, scratch: Path, sizes: Sizes
) -> Sequence[Finding]:
    raw = RawEngine(base_url, serving_spec(image), threads=32)
    try:
        async with connect(UnixAddress(daemon.socket)) as client:
            sides = Sides(client, raw, base_url)
            _progress("starts of one")
            findings = [await sides.one_start(sizes.rounds)]
            for count in sizes.crowds:
                _progress(f"starts of {count} at once")
                findings.append(await sides.many_starts(count, sizes.crowd_rounds))
            _progress("pause and resume, deaths, round trips")
            findings += await sides.pause_and_resume(sizes.rounds)
            findings.append(await sides.news_of_a_death(sizes.rounds))
            await client.start("asked")
            findings.append(await round_trips(daemon.socket, scratch / "echo.sock", 5))
            address, key = http_door(daemon)
            findings += await gets(address, key, daemon.socket, 5)
            findings += await pauses(client, address, key, sizes.rounds)
            await end(client, "asked")
    finally:
        raw.clean()
    return findings


async def _start_up(daemon: DaemonProcess, image: str, sizes: Sizes) -> Finding:
    _progress("start-up")
    names = [f"up{number}" for number in range(sizes.running)]
    async with connect(UnixAddress(daemon.socket)) as client, trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(client.start, name)
    daemon.stop()
    _record_stopped(daemon.state_dir / "journal.db", image, sizes.recorded)
    taken = daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client, trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(end, client, name)
    what = f"start-up with {sizes.recorded} recorded and {sizes.running} running"
    return Finding(what, f"{taken:.2f} s", "", taken, 2.0, "s")


def _progress(what: str) -> None:
    click.echo(f"measuring: {what} ...", err=True)


def _record_stopped(path: Path, image: str, count: int) -> None:
    store, now = Store(path), datetime.now(UTC)
    store.write(
        [
            Create(
                ConversationRecord(
                    id=ConversationId(f"recorded{number}"),
                    agent="none",
                    status=Status.STOPPED,
                    spec=serving_spec(image),
                    session_key="",
                    created_at=now,
                    updated_at=now,
                    last_active_at=now,
                ),
                (),
            )
            for number in range(count)
        ]
    )
    store.close()


def _stall(samples: Sequence[Sequence[float]], crowd: int) -> Sequence[Finding]:
    """Our loop's longest stalls beside those of a loop that did nothing meanwhile, and the work that was in them."""
    ours, bare, work = ([each * 1000 for each in side] for side in zip(*samples, strict=True))
    more = statistics.median(ours) - statistics.median(bare)
    stall = f"longest stall of the loop in {crowd} starts, more than a bare loop's"
    turn = f"longest turn of the loop in {crowd} starts, in processor time"
    return [
        Finding(stall, milliseconds(ours), milliseconds(bare), more, 20.0, "ms"),
        Finding(turn, milliseconds(work), "", statistics.median(work), 20.0, "ms"),
    ]


def _inside(prefix: Sequence[str], environ: Mapping[str, str], *arguments: str) -> Sequence[float]:
    """Measure in a fresh process, whose loop and memory are its own."""
    command = [*prefix, sys.executable, "-m", "tests.benchmarks.inside", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **environ}, text=True)
    return [float(number) for number in done.stdout.split()]


if __name__ == "__main__":
    main()
