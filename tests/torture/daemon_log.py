"""What the daemon's own log tells of a bug, but for what a trial has taken away itself."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from re import Pattern
from typing import Final

from supervisor.conversation.json import JsonObject
from tests import daemon_log

_TOLD_ELSEWHERE: Final = ("alert.raised", "alert.over")
"""An alert tells of an incident that has a line of its own."""

_ANSWERS_CUT: Final = "urllib3.connection"
"""Who warns of headers that an engine's answer breaks off in: what we make of that answer is looked at elsewhere."""

_ANOTHER_PROGRAM: Final = "nice: "
"""What `nice` says where it may not make anybody nicer than they are."""


def incidents(log: Path, excused: Pattern[str] | None) -> Iterator[str]:
    """A sentence for every exception and incident, and for all that is no log line.

    What is `excused` by its error or its traceback is none: the daemon says there what it lacked.
    """
    for line in daemon_log.incidents(log):
        fields = _parse(line)
        if fields is None:
            if not line.startswith(_ANOTHER_PROGRAM):
                yield f"the daemon's log has {line!r}"
        elif not _is_known(fields):
            told = str(fields.get("exception", fields.get("error", "")))
            if excused is None or not excused.search(told):
                yield f"the daemon's log has {fields['event']} {fields.get('incident', '')}: {_last_line(told)}"


def _parse(line: str) -> JsonObject | None:
    try:
        fields: JsonObject = json.loads(line)
    except ValueError:
        return None
    return fields


def _is_known(fields: JsonObject) -> bool:
    return fields["event"] in _TOLD_ELSEWHERE or (fields["level"], fields.get("logger")) == ("warning", _ANSWERS_CUT)


def _last_line(traceback: str) -> str:
    lines: Sequence[str] = traceback.splitlines()
    return lines[-1] if lines else ""
