"""How `conversationctl` ends, so that scripts can tell refused, failed, timed out and unreachable apart."""

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """The exit codes; those of signals are 128 and the signal's number."""

    OK = 0
    USAGE = 2
    REFUSED = 3
    FAILED = 4
    TIMED_OUT = 5
    UNREACHABLE = 6
    INTERRUPTED = 130
    BROKEN_PIPE = 141


EXIT_CODES_HELP: Final = """\b
Exit codes:
  0    done
  2    the command line is wrong
  3    refused: not found, not possible now, not allowed, no room, busy, a bad parameter
  4    failed: the sandbox, the image, the engine, the agent, or conversationd itself
  5    timed out: the command's deadline passed
  6    unreachable: nobody listens, or the connection was refused or lost
  130  interrupted; what was asked goes on in the daemon
"""
