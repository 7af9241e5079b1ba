"""The sandbox: a loader gives up files, system calls and memory before it reads untrusted bytes.

The pool starts each loader through `start`. `protections` tests what this kernel can take away, for
the worker's log and for `doctor`.
"""
