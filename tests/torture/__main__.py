"""`make torture`: what can go wrong for real, done to real daemons over a Docker Engine of its own."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
import click
import trio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.engine_host import NoEngine, networked_engine
from tests.tiny_image import tiny_image
from tests.torture.trial import Bench, Finding, Trial
from tests.torture.trials import TRIALS

_NAMES = [trial.name for trial in TRIALS]


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, epilog="Trials: " + ", ".join(_NAMES))
@click.option("--quick", is_flag=True, help="The short form of each trial, as `make test` runs it.")
@click.option("--only", multiple=True, type=click.Choice(_NAMES), metavar="NAME", help="Only this trial; repeatable.")
@click.option("--minutes", default=30.0, show_default=True, help="How long the trial of endurance lasts.")
def main(*, quick: bool, only: Sequence[str], minutes: float) -> None:
    """Torture the daemon, one trial after the other, and print what was lost: it must be nothing.

    A Docker Engine is started for it, with its own data, socket and network; nothing else on this host is touched. It
    takes root or sudo.

    Example: python -m tests.torture --only killed-daemon --only full-disk
    """
    console = Console(highlight=False)
    trials = [trial for trial in TRIALS if not only or trial.name in only]
    try:
        with networked_engine() as engine, tiny_image(engine.base_url) as image:
            bench = Bench(engine, image, Path(), full=not quick, minutes=minutes)
            findings = [(trial, _run(trial, bench, console)) for trial in trials]
    except NoEngine as error:
        console.print(f"[red]Torture needs a Docker Engine:[/red] {error}")
        sys.exit(1)
    console.print(_table(findings))
    sys.exit(any(finding.lost for _, finding in findings))


def _run(trial: Trial, bench: Bench, console: Console) -> Finding:
    with tempfile.TemporaryDirectory(prefix="torture-") as directory, console.status(trial.name) as status:
        finding = trio.run(
            trial.run,
            attrs.evolve(
                bench, directory=Path(directory), say=lambda text: status.update(escape(f"{trial.name}: {text}"))
            ),
        )
    for loss in finding.lost:
        console.print(f"[red]{trial.name} lost:[/red] {escape(loss)}")
    console.print(escape(f"{trial.name}: {finding.did}, {finding.times}; {finding.figures}; {len(finding.lost)} lost"))
    return finding


def _table(findings: Sequence[tuple[Trial, Finding]]) -> Table:
    table = Table("trial", "what was done", "how often", "measured", "lost", title="What was lost under torture")
    for trial, finding in findings:
        lost = f"[red]{len(finding.lost)}[/red]" if finding.lost else "0"
        table.add_row(trial.name, escape(finding.did), finding.times, escape(finding.figures), lost)
    return table


if __name__ == "__main__":
    main()
