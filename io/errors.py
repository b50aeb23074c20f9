"""The two errors this package raises: each message is one line that names the file and the remedy."""


class InputError(ValueError):
    """A file or argument that cannot be used as it is; the message names file, line and ids.

    Arguments of this package stand between back quotes, `maf`, in errors, notes and the names of filters alike, so that
    a program with other words for them, as the commands have flags, can put its own in their place.
    """


class OutputError(OSError):
    """A result that could not be written; the message names the path and the system's reason."""
