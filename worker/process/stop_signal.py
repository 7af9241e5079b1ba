"""The signal by which the supervisor asks its worker to stop.

`worker.process.supervisor` sends it and `worker.process.shutdown` answers it.
"""

from __future__ import annotations

import signal
from typing import Final

STOP_SIGNAL: Final = signal.SIGUSR1
"""What SIGTERM and SIGINT are passed on as. The worker may have got these as well, from a
terminal or from systemd, and must not take one request for two.
"""
