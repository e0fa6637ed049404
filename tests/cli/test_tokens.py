"""The token for TCP."""

from pathlib import Path

import pytest

from supervisor.cli.asks import Settings
from supervisor.cli.tokens import NoToken, with_token
from supervisor.control.address import TcpAddress, UnixAddress

TCP = TcpAddress("127.0.0.1", 1)


def test_a_unix_socket_is_shown_no_token(tmp_path: Path) -> None:
    """Nor is its file looked at."""
    settings = Settings(UnixAddress(tmp_path / "s"), tmp_path / "none", "secret")
    assert with_token(settings).token is None


def test_the_file_wins_over_the_environment(tmp_path: Path) -> None:
    """Without a file the environment's token stays."""
    file = tmp_path / "token"
    file.write_text(" from-file \n")
    assert with_token(Settings(TCP, file, "from-environment")).token == "from-file"
    assert with_token(Settings(TCP, None, "from-environment")).token == "from-environment"


@pytest.mark.parametrize("content", [b"", b" \n", b"a\x00b", b"\xff\xfe"])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    """Rather than sent."""
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(NoToken, match="holds no token"):
        with_token(Settings(TCP, file))


def test_settings_never_show_the_token() -> None:
    """Not even in a traceback."""
    assert "secret" not in repr(Settings(TCP, None, "secret"))
