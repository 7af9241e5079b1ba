"""What separate processes must agree on: settings, messages, broker, tables, error codes.

Producers, which have no torch, and workers, which have no command line, both import it. It imports
neither of them.
"""

VERSION = "0.1.0"
