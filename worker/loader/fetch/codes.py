"""Turns libcurl's codes into failures."""

from __future__ import annotations

import errno
from typing import Final

import pycurl

from contract.failure import Failure
from worker.loader.fetch.failures import (
    BAD_RESPONSE,
    BAD_URI,
    INTERRUPTED,
    NO_ADDRESS,
    NO_MEMORY,
    TOO_LATE,
)

# Codes that pycurl has no names for: the proxy refused; a header line, or all of them, is too long.
PROXY: Final = 97
TOO_LARGE: Final = 100
_PROXY_REFUSED: Final = Failure("connect", "the proxy refused, or cannot be reached")
FAILURES: Final = {
    pycurl.E_OPERATION_TIMEDOUT: TOO_LATE,
    pycurl.E_COULDNT_RESOLVE_HOST: NO_ADDRESS,
    pycurl.E_COULDNT_CONNECT: Failure("connect", "no address of the host can be reached"),
    pycurl.E_COULDNT_RESOLVE_PROXY: _PROXY_REFUSED,
    PROXY: _PROXY_REFUSED,
    pycurl.E_URL_MALFORMAT: BAD_URI,
    pycurl.E_OUT_OF_MEMORY: NO_MEMORY,
    pycurl.E_WRITE_ERROR: NO_MEMORY,  # one of our callbacks raised; pycurl does not say which error
    pycurl.E_PARTIAL_FILE: INTERRUPTED,
    pycurl.E_GOT_NOTHING: INTERRUPTED,
    pycurl.E_SEND_ERROR: INTERRUPTED,
    pycurl.E_RECV_ERROR: INTERRUPTED,
    pycurl.E_SSL_CONNECT_ERROR: Failure("tls", "the TLS handshake failed"),
    pycurl.E_SSL_CIPHER: Failure("tls", "no common cipher"),
    pycurl.E_SSL_CACERT_BADFILE: Failure("tls", "the worker's authorities cannot be read"),
    pycurl.E_FTP_WEIRD_SERVER_REPLY: BAD_RESPONSE,
    pycurl.E_UNSUPPORTED_PROTOCOL: BAD_RESPONSE,
    pycurl.E_BAD_CONTENT_ENCODING: BAD_RESPONSE,
    pycurl.E_PEER_FAILED_VERIFICATION: Failure("tls", "the certificate is not valid"),
    TOO_LARGE: BAD_RESPONSE,
}
# X509_V_ERR_… of <openssl/x509_vfy.h>.
_UNVERIFIED: Final = {
    9: Failure("tls", "the certificate is not valid yet"),
    10: Failure("tls", "the certificate has expired"),
    **dict.fromkeys(
        (2, 18, 19, 20, 21), Failure("tls", "the certificate is from an unknown authority")
    ),
}
# If a code has several causes, words in libcurl's message tell them apart.
_BY_WORDS: Final = (
    (
        pycurl.E_PEER_FAILED_VERIFICATION,
        ("subject name",),
        Failure("tls", "the certificate is for another host"),
    ),
    (pycurl.E_SSL_CONNECT_ERROR, ("unexpected eof", "reset", "SYSCALL"), INTERRUPTED),
    (pycurl.E_COULDNT_CONNECT, ("CONNECT tunnel",), _PROXY_REFUSED),
    (pycurl.E_RECV_ERROR, ("CONNECT tunnel",), _PROXY_REFUSED),
    (pycurl.E_RECV_ERROR, ("chunk", "hexadecimal", "header"), BAD_RESPONSE),
)


_REFUSED: Final = Failure("connect", "connection refused")


def failure_of(code: int, words: str, unverified: int, error: int) -> Failure:
    """Returns the failure for a transfer that libcurl could not complete.

    Args:
        code: libcurl's code, not 0.
        words: libcurl's message.
        unverified: OpenSSL's verification error of the certificate.
        error: the system's error number, from <errno.h>.
    """
    if code == pycurl.E_PEER_FAILED_VERIFICATION and unverified in _UNVERIFIED:
        return _UNVERIFIED[unverified]
    for known, signs, failure in _BY_WORDS:
        if code == known and any(sign in words for sign in signs):
            return failure
    if code == pycurl.E_COULDNT_CONNECT and error == errno.ECONNREFUSED:
        return _REFUSED
    return FAILURES.get(code) or Failure("internal", f"libcurl's code {code}")
