"""Which sinks there are, by the config, and the one that is the log."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from supervisor.alerts import AlertSettings, WebhookSettings, open_sinks
from supervisor.alerts.command import AlertCommand
from supervisor.alerts.notices import Turn
from supervisor.alerts.sinks import LogSink, SinkName, configured
from supervisor.alerts.webhook import Webhook
from supervisor.conversation.alerts import AlertKind, AlertState, StandingAlert
from supervisor.journal.ledger import Delivery
from tests.world import SimulatedWallClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ALERT = StandingAlert("f00", AlertKind.OOM, "oom:c1:2", "ran out", NOON)
ALL = AlertSettings(webhook=WebhookSettings("http://x", Path("/s")), command=("/bin/true",))


async def test_log_gets_a_critical_line() -> None:
    """With the alert's fields, those that it has."""
    body = Turn(ALERT, AlertState.RAISED, "ran out", NOON).body("0f")
    with capture_logs() as logged:
        await LogSink().tell(Delivery(1, "f00", AlertState.RAISED, NOON, body))
    assert logged == [
        {
            "event": "alert.raised",
            "log_level": "critical",
            "id": "f00",
            "kind": "oom",
            "severity": "warning",
            "cause": "oom:c1:2",
            "message": "ran out",
            "state": "raised",
            "raised_at": "2026-01-01T12:00:00.000000Z",
            "instance": "0f",
        }
    ]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (AlertSettings(), ["log"]),
        (AlertSettings(log=False), []),
        (ALL, ["log", "webhook", "command"]),
    ],
)
async def test_config_says_which_sinks_there_are(settings: AlertSettings, names: list[str]) -> None:
    """Those that are queued for are those that are told."""
    async with open_sinks(lambda: settings, SimulatedWallClock()) as sinks:
        assert list(sinks) == list(SinkName)
        made = [sink() for sink in sinks.values()]
    assert configured(settings) == tuple(SinkName(name) for name in names)
    kinds = {SinkName.LOG: LogSink, SinkName.WEBHOOK: Webhook, SinkName.COMMAND: AlertCommand}
    assert [type(sink) for sink in made if sink is not None] == [kinds[SinkName(name)] for name in names]
