"""From a URI to bytes: HTTP(S), files and object stores, with a deadline and a size limit.

A loader runs `loop`, and calls `fetcher` in it. Each fetch calls back once: with the body and the
final URI, or with a failure that has an error code.
"""
