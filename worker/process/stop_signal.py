"""The signal by which the supervisor asks its worker to stop.

`worker.process.supervisor` sends it and `worker.process.shutdown` answers it.
"""

from __future__ import annotations

import signal
from typing import Final

STOP_SIGNAL: Final = signal.SIGUSR1
"""The supervisor passes SIGTERM and SIGINT on as this signal. A terminal or systemd may send those
to the worker as well, and the worker must not count one request twice.
"""
