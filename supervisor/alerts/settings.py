"""What the config says about alerts."""

from pathlib import Path

import attrs

from supervisor.conversation.alerts import AlertKind


@attrs.frozen
class WebhookSettings:
    """Where notices are posted to, and the file with the secret that they are signed with."""

    url: str = attrs.field(repr=False)
    secret_file: Path


@attrs.frozen
class AlertSettings:
    """The config's `[alerts]`; a reload replaces it whole.

    `disk_free` is bytes, `allowance` the fraction of a conversation's restarts whose use raises an alert.
    """

    kinds: tuple[AlertKind, ...] = tuple(AlertKind)
    log: bool = True
    webhook: WebhookSettings | None = None
    command: tuple[str, ...] | None = None
    disk_free: int = 1024**3
    allowance: float = 0.8
