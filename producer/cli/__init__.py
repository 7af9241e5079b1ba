"""The command line: options come in, and the other rooms do the work.

`main` is the entry point of `resnextq`. A command imports what it needs when it runs, so that
`--help` is quick; a worker's commands are named in a text and loaded by that name.
"""
