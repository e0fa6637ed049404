"""Sinks: who is told of alerts, and how the log is one of them."""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Protocol

import structlog
import trio

from supervisor.alerts.settings import AlertSettings
from supervisor.journal.ledger import Delivery

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class SinkName(StrEnum):
    """The sinks that there are; deliveries are queued under these names."""

    LOG = "log"
    WEBHOOK = "webhook"
    COMMAND = "command"


class NotDelivered(Exception):
    """The sink could not be told now; the message says why, without any secret."""


class NoticeRefused(NotDelivered):
    """The sink is there and did not take this one: the next may fare better."""


class Sink(Protocol):
    """Somebody who is told. May be told the same more than once: of the same alert and state."""

    async def tell(self, delivery: Delivery) -> None:
        """Tell once, within a time limit of its own.

        Raises:
            NotDelivered: it is to be tried again.
        """


class LogSink:
    """The daemon's own log, at CRITICAL."""

    async def tell(self, delivery: Delivery) -> None:
        """Write one line."""
        await trio.lowlevel.checkpoint()
        told = json.loads(delivery.body)
        _log.critical(told["type"], **{name: value for name, value in told["data"].items() if value is not None})


def configured(settings: AlertSettings) -> tuple[SinkName, ...]:
    """Who is told of what happens from now on."""
    wanted: Final[Mapping[SinkName, bool]] = {
        SinkName.LOG: settings.log,
        SinkName.WEBHOOK: settings.webhook is not None,
        SinkName.COMMAND: settings.command is not None,
    }
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)
