"""The errors that stop a command.

A failed *image* raises no exception; it gets a row with an error code (`contract.failure`).
A *command* is stopped by one of these errors. The command line prints the message and exits with
`exit_code`:

    ResnextQueueError             what was wrong, with the value, and what to do next
    ├── UsageError                the caller asked for something impossible (exit 2)
    │   ├── SettingsError         a RESNEXT_ variable has a bad value
    │   ├── SourceError           a source of URIs cannot be read, or a URI is refused
    │   ├── UnknownJobError       no job has this id
    │   └── JobStateError         the job's state does not permit the request
    └── UnavailableError          a server or a file is missing; try again later (exit 3)
        ├── BrokerUnavailable     Redis does not answer
        ├── DatabaseUnavailable   the database does not answer
        ├── SchemaMismatch        the database's schema is too old or too new
        └── WeightsError          a weights file is missing, damaged or for another network
"""


class ResnextQueueError(Exception):
    """The base class. The message is for the person who typed the command."""

    exit_code = 3


class UsageError(ResnextQueueError):
    exit_code = 2


class SettingsError(UsageError):
    pass


class SourceError(UsageError):
    """If the error is about one line or row (from 1), or one column, the attributes name it."""

    def __init__(self, message: str, *, line: int | None = None, column: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class UnknownJobError(UsageError):
    pass


class JobStateError(UsageError):
    pass


class UnavailableError(ResnextQueueError):
    pass


class BrokerUnavailable(UnavailableError):
    pass


class DatabaseUnavailable(UnavailableError):
    pass


class SchemaMismatch(UnavailableError):
    pass


class WeightsError(UnavailableError):
    pass
