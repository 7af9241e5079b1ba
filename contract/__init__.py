"""What separate processes must agree on: settings, messages, broker, tables, error codes.

Everything here is imported by producers that have no torch and by workers that have no
command line; it imports nothing of either.
"""

VERSION = "0.1.0"
