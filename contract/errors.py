"""What can go wrong, for people: the errors that stop a command.

A failed *image* is no exception but a row with an error code (`contract.failure`).
What stops a *command* is one of these; the command line prints its message and exits with
`exit_code`:

    ResnextQueueError             what was wrong, with the value, and what to do next
    ├── UsageError                the caller asked for something that cannot be (exit 2)
    │   ├── SettingsError         a RESNEXT_ variable has a bad value
    │   ├── SourceError           a source of URIs cannot be read, or a URI is refused
    │   ├── UnknownJobError       no job has this id
    │   └── JobStateError         the job has ended, or is not ready, for what is asked of it
    └── UnavailableError          a server or a file is not there: worth another try (exit 3)
        ├── BrokerUnavailable     Redis does not answer
        ├── DatabaseUnavailable   the database does not answer
        ├── SchemaMismatch        the database's schema is too old or too new
        └── WeightsError          a weights file is missing, damaged or of another network
"""


class ResnextQueueError(Exception):
    """The root; the message is written for the person who typed the command."""

    exit_code = 3


class UsageError(ResnextQueueError):
    exit_code = 2


class SettingsError(UsageError):
    pass


class SourceError(UsageError):
    pass


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
