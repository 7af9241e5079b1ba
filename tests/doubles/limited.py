"""Starts a command as another user with a thread limit: `limited.py USER THREADS COMMAND...`.

It must run as root. The command may still read all files, since Python may be in root's own folder.
This right does not lift the limit.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

# <linux/prctl.h>, <linux/capability.h>
PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 47, 2
VERSION_3 = 0x20080522
CAP_DAC_READ_SEARCH = 2


def main(user: int, threads: int, command: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    kept = 1 << CAP_DAC_READ_SEARCH
    header, sets = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)(kept, kept, kept)
    assert libc.capset(header, sets) == 0
    assert libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0) == 0
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), sys.argv[3:])
