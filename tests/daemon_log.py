"""The daemon's own log: does it tell of a bug that nobody else has seen, because the daemon came over it?"""

import json
from pathlib import Path


def incidents(log: Path) -> list[str]:
    """The lines of a daemon's log that tell of a bug: an exception, an incident, or no JSON at all."""
    return [line for line in log.read_text(errors="replace").splitlines() if _tells_of_a_bug(line)]


def _tells_of_a_bug(line: str) -> bool:
    try:
        fields = json.loads(line)
    except ValueError:
        return True
    is_alert = fields["event"] in ("alert.raised", "alert.over")
    return "exception" in fields or "incident" in fields or (fields["level"] == "critical" and not is_alert)
