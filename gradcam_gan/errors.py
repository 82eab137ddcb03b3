"""Errors that a user can act on: one line that says what, where, what is allowed and how to fix it."""


class GradcamGanError(Exception):
    """Base of all errors this package raises on purpose.

    Notebooks show only the message: the line is written for the reader, and the stack below it would
    point into code that is not at fault.
    """

    def _render_traceback_(self) -> list[str]:
        """IPython's hook for the lines shown in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class InputError(GradcamGanError, ValueError):
    """A value, file or model given by the user cannot be used."""


class RunError(GradcamGanError, RuntimeError):
    """A training run stopped or cannot be read; what was already saved stays readable."""


def one_line(error: BaseException) -> str:
    """The words of an error; its type's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
