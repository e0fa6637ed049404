"""Incident ids: what ties an `internal` error that a client sees to the traceback in the log."""

import secrets


def new_incident() -> str:
    """A short random id, 12 hex digits."""
    return secrets.token_hex(6)
