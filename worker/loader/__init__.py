"""A loader: a process that fetches and decodes images in a sandbox.

The pool starts `program` and sends it URIs over a socket. The loader writes pixels to shared
memory, and sends facts about the image or its failure over the socket.
"""
