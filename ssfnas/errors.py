"""The two ways in which a run of ssfnas may end early by itself."""


class RequestError(ValueError):
    """What was asked for is wrong: commands print the message as one line and exit with code 2.

    The message says what is wrong, where, and what would be right.
    """


class NumericalError(RuntimeError):
    """A loss or a weight became NaN or infinite.

    The message names the step, the term, and the checkpoint to go back to.
    """
