"""Bad input, refused in one line: options of a model, and names of which only some are known."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from gradcam_gan.errors import InputError


def choose(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a value that is not among those allowed, with the nearest of them as a hint.

    Raises:
        InputError: such as ``method='gradcan' is unknown; did you mean 'gradcam'? Choose one of gradcam, hirescam``.
    """
    known = list(allowed)
    if value not in known:
        raise InputError(
            f"{name}={value!r} is unknown; {did_you_mean(value, known)}one of {', '.join(known)}"
        )


def did_you_mean(value: object, allowed: Iterable[str]) -> str:
    """``did you mean 'x'? Choose `` where a known name is near, else ``choose ``."""
    near = difflib.get_close_matches(str(value), list(allowed), 1)
    return f"did you mean {near[0]!r}? Choose " if near else "choose "


class ValidatedModel(BaseModel):
    """A frozen pydantic model that takes no unknown field.

    Raises:
        InputError: one line that says of every problem its field, the value and what is allowed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:  # noqa: ANN401 - pydantic validates them
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(_one_line(error, list(type(self).model_fields))) from None


def _one_line(error: ValidationError, known: list[str]) -> str:
    """Pydantic's report, one sentence a problem: field, value, what is allowed."""
    sentences = []
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(field, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"fields: {', '.join(known)}"
            sentences.append(f"{field!r} is not a field; {hint}")
        else:
            # a model within this one has put its own name in front already
            message = re.sub(r"^(Value error, )?([A-Z]\w+: )*", "", problem["msg"])
            message = message[0].lower() + message[1:]
            value = " ".join(repr(problem["input"]).split())  # an array's repr has many lines
            # of a section its own model has named the value
            named = field if isinstance(problem["input"], dict) else f"{field}={value}"
            sentences.append(f"{named}: {message}" if field else message)
    return f"{error.title}: " + "; ".join(sentences)
