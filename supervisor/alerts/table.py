"""The table of sinks: a new one is one file and one line in here."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from supervisor.actors.clock import Clock
from supervisor.alerts.command import AlertCommand
from supervisor.alerts.settings import AlertSettings
from supervisor.alerts.sinks import LogSink, Sink, SinkName
from supervisor.alerts.webhook import Webhook, open_client


@asynccontextmanager
async def open_sinks(
    settings: Callable[[], AlertSettings], clock: Clock
) -> AsyncIterator[Mapping[SinkName, Callable[[], Sink | None]]]:
    """Each sink as the settings have it whenever it is asked for; None: they have none."""
    async with open_client() as client:

        def log() -> Sink | None:
            return LogSink() if settings().log else None

        def webhook() -> Sink | None:
            target = settings().webhook
            return None if target is None else Webhook(client, target, clock)

        def command() -> Sink | None:
            argv = settings().command
            return None if argv is None else AlertCommand(argv)

        yield {SinkName.LOG: log, SinkName.WEBHOOK: webhook, SinkName.COMMAND: command}
