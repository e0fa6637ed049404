"""`unchroot.py DIRECTORY COMMAND...`: run a command in no chroot; as root, in a mount namespace of our own.

The kernel makes no user namespace, which `PrivateUsers=` takes, for who is in a chroot. If we are in one, the directory
that is our root becomes the root of our mount namespace. DIRECTORY is one that nobody uses.
"""

import ctypes
import os
import sys
from typing import Final

_CLONE_NEWNS: Final = 0x20000
_MS_BIND: Final = 0x1000
_MS_MOVE: Final = 0x2000
_MS_REC: Final = 0x4000

_libc: Final = ctypes.CDLL(None, use_errno=True)


def main(directory: str, *command: str) -> None:
    """Become the command."""
    ours, namespace = os.open("/", os.O_RDONLY), os.open("/proc/self/ns/mnt", os.O_RDONLY)
    _check(_libc.setns(namespace, _CLONE_NEWNS))  # takes us to its root, out of any chroot
    if not os.path.sameopenfile(ours, os.open("/", os.O_RDONLY)):
        os.fchdir(ours)
        os.chroot(".")
        _check(_libc.mount(b"/", directory.encode(), None, _MS_BIND | _MS_REC, None))
        copy = os.open(directory, os.O_RDONLY)
        _check(_libc.setns(namespace, _CLONE_NEWNS))
        os.fchdir(copy)
        _check(_libc.mount(b".", b"/", None, _MS_MOVE, None))
        os.chroot(".")
    os.execvp(command[0], command)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(*sys.argv[1:])
