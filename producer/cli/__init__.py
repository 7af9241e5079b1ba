"""The command line: it reads options, and the other packages do the work.

`main` is the entry point of `resnextq`. A command imports what it needs when it runs, so that
`--help` is fast. A worker's commands are named in text and loaded by that name.
"""
