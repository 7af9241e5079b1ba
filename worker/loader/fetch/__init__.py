"""From a URI to bytes: HTTP(S), files and object stores, with a deadline and a limit of bytes.

A loader runs `loop`, and calls `fetcher` in it. Each fetch calls back once, with the body and where
redirects led, or with a failure that has an error code.
"""
