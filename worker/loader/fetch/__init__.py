"""From a URI to bytes: HTTP(S), files and object stores, with a deadline and a limit of bytes.

A loader's fetch threads call `fetcher`. It returns the body and where redirects led, or raises a
`FetchError` with an error code.
"""
