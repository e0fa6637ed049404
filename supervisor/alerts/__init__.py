"""Alerts: what a person should look at is raised once, told to the configured sinks, and said to be over when it is.

`rules` decides, purely; `ledger` makes it durable; `delivery` and the sinks tell; `room` runs it all over the journal's
events. Nothing in here touches a conversation.
"""

from supervisor.alerts.disk import look_at_disks
from supervisor.alerts.room import AlertParts, IncidentBox, run_alerts
from supervisor.alerts.settings import AlertSettings, WebhookSettings
from supervisor.alerts.table import open_sinks
from supervisor.alerts.webhook import load_webhook_secret

__all__ = [
    "AlertParts",
    "AlertSettings",
    "IncidentBox",
    "WebhookSettings",
    "load_webhook_secret",
    "look_at_disks",
    "open_sinks",
    "run_alerts",
]
