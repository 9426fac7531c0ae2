"""Every error a person can meet, each with the exit code its kind has.

An error is one line: what failed, the offending value and its place, what was expected, what to do.
The command line prints it after ``error:`` on stderr; ``--debug`` shows the traceback.
"""


class MlxTuneError(Exception):
    """The root of this package's errors; ``exit_code`` is what the process ends with."""

    exit_code = 1


class UsageError(MlxTuneError, ValueError):
    """A command was called in a way it cannot be carried out."""

    exit_code = 2


class InputError(MlxTuneError, ValueError):
    """Data, a template or a weight file is not what it should be."""

    exit_code = 3


class NotFiniteError(InputError):
    """Numbers of a training are not finite, so going on with it would end the same way."""


class DamagedStoreError(MlxTuneError, OSError):
    """A file of the store is not what was committed."""

    exit_code = 4


class IncompatibleError(MlxTuneError, ValueError):
    """Two things that are each sound do not belong together."""

    exit_code = 5


class LockedError(MlxTuneError, RuntimeError):
    """Another process is writing to the store."""

    exit_code = 6


class DiskError(MlxTuneError, OSError):
    """The disk is full, read-only or failing."""

    exit_code = 7


class Interrupted(MlxTuneError):  # noqa: N818 - nothing went wrong
    """A signal asked to stop, and everything is saved; the exit code is 128 and the signal's."""

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


class NetworkError(MlxTuneError, ConnectionError):
    """Something could not be fetched, or is not what was asked for."""

    exit_code = 8


class HeldBack(MlxTuneError):  # noqa: N818 - nothing went wrong
    """The gate asks a person whether a session is to be used, and nobody was there to answer."""

    exit_code = 9


class Refused(MlxTuneError):  # noqa: N818 - nothing went wrong
    """The gate refused a session: too much of what was known is lost, and hardly by chance."""

    exit_code = 10
