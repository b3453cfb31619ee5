"""The kinds of error a user meets. Messages are one sentence: the flag, the value, the remedy."""


class RequestError(ValueError):
    """The request cannot be served as it stands: a bad value, file or combination. The CLI exits with 2."""


class Sky4Failure(RuntimeError):
    """The request was fine and something else failed: weights, numbers, disk. The CLI exits with 1."""


class Interrupted(Exception):
    """The user stopped the run; the message says what is left of it. The CLI exits with 130."""

    exit_code = 130
