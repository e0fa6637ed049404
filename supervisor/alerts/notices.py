"""What sinks are told: one JSON text for each turn of an alert, the same for all sinks and each time it is tried."""

import json
from datetime import datetime

import attrs

from supervisor.conversation.alerts import SEVERITIES, AlertState, StandingAlert
from supervisor.conversation.events import Alert
from supervisor.journal.codec import format_time


@attrs.frozen
class Turn:
    """An alert was raised, or is over; `message` says why."""

    alert: StandingAlert
    state: AlertState
    message: str
    at: datetime

    def event(self) -> Alert:
        """As the journal and its subscribers have it."""
        alert = self.alert
        severity = SEVERITIES[alert.kind]
        return Alert(alert.id, alert.kind, severity, alert.cause, self.message, self.state, alert.incident)

    def body(self, instance: str) -> str:
        """As sinks have it; `instance` is the id of the state directory, for those who hear of several daemons."""
        alert = self.alert
        data = {
            "id": alert.id,
            "kind": alert.kind,
            "severity": SEVERITIES[alert.kind],
            "cause": alert.cause,
            "message": self.message,
            "state": self.state,
            "conversation": alert.conversation,
            "raised_at": format_time(alert.raised_at),
            "incident": alert.incident,
            "instance": instance,
        }
        return json.dumps({"type": f"alert.{self.state}", "timestamp": format_time(self.at), "data": data})
