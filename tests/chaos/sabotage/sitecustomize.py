"""Makes some images harm the loader that decodes them; Python runs this at its start.

The harm is real: a signal of the loader's own, or memory up to its limit.
"""

import signal
import sys

HUGE_BYTES = 2**28


def crash() -> None:
    """As a decoder does: to this thread. What is sent to the process comes a moment later, when
    no image is under decode, or another one.
    """
    signal.raise_signal(signal.SIGSEGV)


def exhaust_memory() -> None:
    taken = []
    while True:
        taken.append(bytes(HUGE_BYTES))  # promised, and never touched


HARMS = {b"crash": crash, b"memory": exhaust_memory}

if "worker.loader.program" in sys.orig_argv:
    import resnext.picture.decode

    decode = resnext.picture.decode.decode

    def decode_or_do_harm(body: bytes, **options: object) -> resnext.picture.decode.Decoded:
        for word, harm in HARMS.items():
            if b"harm\0" + word in body:
                harm()
        return decode(body, **options)

    resnext.picture.decode.decode = decode_or_do_harm
