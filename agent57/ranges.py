"""The numbers that a config field takes, stated in its type and checked in one place.

``learning_rate: Annotated[float, Range(above=0, at_most=1)]`` is a field that refuses everything else, NaN too, once
its class calls `check_ranges`. Used by the config classes of every package.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers between two finite bounds, so that neither NaN nor an infinity is one of them.

    On a tuple it holds for every entry, on an optional field for everything but None.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.above is None) or (self.at_most is None) == (self.below is None):
            raise ValueError("a range has one lower and one upper bound")

    def __contains__(self, number: float) -> bool:
        high_enough = number >= self.at_least if self.at_least is not None else number > typing.cast(float, self.above)
        low_enough = number <= self.at_most if self.at_most is not None else number < typing.cast(float, self.below)
        return high_enough and low_enough

    def __str__(self) -> str:
        low = f"at least {_shown(self.at_least)}" if self.at_least is not None else f"above {_shown(self.above)}"
        high = f"at most {_shown(self.at_most)}" if self.at_most is not None else f"below {_shown(self.below)}"
        return f"{low} and {high}"


Share = Annotated[float, Range(at_least=0, at_most=1)]
"""A probability or another part of a whole."""
Width = Annotated[int, Range(at_least=1, at_most=8192)]
"""Units of a layer."""


def ranges(cls: type) -> dict[str, Range | None]:
    """The range of each field that holds numbers, by field name; None where the field states none."""
    found: dict[str, Range | None] = {}
    for name, hint in _hints(cls).items():
        plain, *notes = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        if {plain, *typing.get_args(plain)} & {int, float}:
            found[name] = next((note for note in notes if isinstance(note, Range)), None)
    return found


def check_ranges(config: Any, section: str) -> None:
    """Raise ValueError for a number out of its field's range, naming the flag; for ``__post_init__``.

    ``section`` is the name that ``config`` has in the whole config, empty for the whole itself.
    """
    for name, range_ in ranges(type(config)).items():
        value = getattr(config, name)
        if range_ is None or value is None:
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if number not in range_:
                flag = f"--{section}{'.' * bool(section)}{name}".replace("_", "-")
                raise ValueError(f"{flag} must be {range_} (got {_shown(number)})")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _shown(number: float | None) -> str:
    """``number`` as a person writes it: 108,000, 0.001 or 1e+15."""
    if isinstance(number, int) and abs(number) < 10**10:
        return f"{number:,}"
    try:
        return f"{number:g}"
    except OverflowError:
        return "a number of more than 300 digits"
