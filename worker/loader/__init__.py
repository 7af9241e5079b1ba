"""A loader: a process of its own that fetches and decodes images in a sandbox.

The pool starts `program` and sends it URIs over a socket. Pixels go into shared memory, and what
was fetched or why it failed goes back over the socket.
"""
