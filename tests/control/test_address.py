"""Addresses of the control channel."""

from pathlib import Path

import pytest

from supervisor.control.address import ControlAddress, TcpAddress, UnixAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/x.sock", UnixAddress(Path("/run/x.sock"))),
        ("tcp:127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        ("tcp:localhost:0", TcpAddress("localhost", 0)),
        ("tcp:[::1]:8090", TcpAddress("::1", 8090)),
    ],
)
def test_parse_reads_addresses_that_print_the_same(text: str, address: ControlAddress) -> None:
    """Each kind, and back."""
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "unix:x.sock", "unix:/a\0b", "tcp:", "tcp:h", "tcp:h:", "tcp::80", "tcp:h:x", "tcp:h:65536",
     "tcp:::1:80", "http://x", "tcp:h:٣"],
)  # fmt: skip
def test_parse_refuses_everything_else_with_the_syntax(text: str) -> None:
    """The message says how to write one."""
    with pytest.raises(ValueError, match="an address is"):
        parse_address(text)
