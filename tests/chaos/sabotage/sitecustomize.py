"""Makes some images harm the loader that decodes them. Python imports this module at its start.

The harm is real: the loader gets a signal from itself, or allocates memory up to its limit.
"""

import signal
import sys

HUGE_BYTES = 2**28


def crash() -> None:
    """Crashes this thread, as a decoder does.

    A signal to the process arrives a moment later, when no image is being decoded, or another one.
    """
    signal.raise_signal(signal.SIGSEGV)


def exhaust_memory() -> None:
    taken = []
    while True:
        taken.append(bytes(HUGE_BYTES))  # reserved but never touched


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
