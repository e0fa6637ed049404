"""Runs a keeper: `python -I -S .../supervisor/sandbox/process DIRECTORY`, with its job on the standard input."""

import os
import sys

_PACKAGE_DEPTH = 3


def _find_ourselves() -> None:
    """Isolated and without site-packages, Python knows where this directory is, and nothing else of ours."""
    root = os.path.abspath(sys.path[0])
    for _ in range(_PACKAGE_DEPTH):
        root = os.path.dirname(root)
    sys.path[0] = root


if __name__ == "__main__":
    _find_ourselves()
    from supervisor.sandbox.process.keeper import main

    sys.exit(main(sys.argv[1]))
