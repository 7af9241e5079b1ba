"""What a loader gives up before it reads a stranger's bytes: files, system calls, memory.

The pool starts each loader through `start`. `protections` tries out what this kernel can take
away, for the worker's log and for `doctor`.
"""
