"""The token for TCP: read from its file when it is needed, never from the command line."""

import attrs

from supervisor.cli.asks import Settings
from supervisor.control.address import UnixAddress


class NoToken(ValueError):
    """The token file cannot be used; the message says why."""


def with_token(settings: Settings) -> Settings:
    """The settings with the token that the address wants, if there is one: none for a Unix socket.

    Raises:
        NoToken: the file cannot be read, or holds no token.
    """
    if isinstance(settings.address, UnixAddress):
        return attrs.evolve(settings, token=None)
    if settings.token_file is None:
        return settings
    try:
        token = settings.token_file.read_text("ascii").strip()
    except OSError as error:
        raise NoToken(f"the token file {settings.token_file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable():
        raise NoToken(f"the token file {settings.token_file} holds no token")
    return attrs.evolve(settings, token=token)
