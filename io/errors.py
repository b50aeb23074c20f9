"""The two errors this package raises: each message is one line that names the file and the remedy."""


class InputError(ValueError):
    """A file or argument that cannot be used as it is; the message names file, line and ids."""


class OutputError(OSError):
    """A result that could not be written; the message names the path and the system's reason."""
