"""The door of every environment: what may come in from one, and when it has been refused too often.

Nothing that is not a finite number gets in, nor anything of another shape or type than the environment's spaces say.
`contract.py` keeps the door for lanes, `trial.py` and `training_environment.py` for a single environment.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

LIMIT = 1e15
"""Largest observation and reward: the square of anything larger is soon too much for float32."""
FORGIVEN_AFTER = 25
"""Good steps of a lane that make up for one of its faults."""
LANE_FAULTS = 10
"""Faults of one lane, none of them made up for, after which it is given up."""
FAULTS_IN_A_ROW = 100
"""Faults of all lanes together, no episode having ended well between them, after which they are given up."""


class EnvironmentFault(RuntimeError):
    """An environment cannot be used on; the message names environment, lane and step, and says what was wrong."""


class EnvironmentRaised(EnvironmentFault):
    """An exception came out of an environment; it is the cause of this one."""


class Refused(ValueError):
    """What an environment handed out cannot be used; the message goes on from "its"."""


@contextmanager
def naming(culprit: str) -> Iterator[None]:
    """Whatever ``culprit`` raises becomes EnvironmentRaised."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001
        blame(culprit, error)


def blame(culprit: str, error: BaseException) -> NoReturn:
    """Raise EnvironmentRaised for ``error``, but let a real Ctrl-C through.

    Only Python's own handler of SIGINT makes a KeyboardInterrupt of it: where another is installed, as in training,
    one can but come out of the environment.
    """
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        raise error
    raise EnvironmentRaised(f"{culprit} raised {in_words(error)}") from error


def in_words(error: BaseException) -> str:
    """Type and message of ``error`` in one line."""
    text = " ".join(str(error).split())
    hint = ""
    if "values to unpack" in text:
        hint = " (step returns observation, reward, terminated, truncated, info; reset returns observation, info)"
    elif "unexpected keyword argument 'seed'" in text or "unexpected keyword argument 'options'" in text:
        hint = " (reset takes seed and options)"
    notes = "".join(f"; {' '.join(note.split())[:300]}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}{': ' if text else ''}{text[:300]}{hint}{notes}"


def parts(brought: Any, count: int, method: str, names: str) -> tuple[Any, ...]:
    """What ``method`` returned, which must be a tuple of ``count`` entries."""
    if not isinstance(brought, tuple) or len(brought) != count:
        what = f"a tuple of {len(brought)}" if isinstance(brought, tuple) else f"one {type(brought).__name__}"
        raise Refused(f"{method} returned {what} instead of {names}")
    return brought


def reward_of(value: Any) -> float:
    """``value`` as a number; raises Refused unless it is a single one within the limit."""
    if type(value) is not float:
        if isinstance(value, str | bytes) or getattr(value, "shape", ()) != ():
            raise Refused(f"reward is {_short(value)}, not one number")
        try:
            value = float(value)
        except (TypeError, ValueError, OverflowError):
            raise Refused(f"reward is {_short(value)}, not a number within {LIMIT:g}") from None
    if not -LIMIT <= value <= LIMIT:
        raise Refused(f"reward is {_number(value)}")
    return value


def flag_of(value: Any, name: str) -> bool:
    """``value`` as a bool; raises Refused unless it is True, False, 1 or 0."""
    if value is True or value is False:
        return value
    single = isinstance(value, np.generic | np.ndarray | int | float) and getattr(value, "shape", ()) == ()
    if single and (value == 0 or value == 1):
        return bool(value)
    raise Refused(f"{name} is {_short(value)}, neither True nor False")


def revisit_of(info: Any) -> bool | None:
    """What ``info`` says under "revisit", if that is a bool; anything else under that name is somebody else's."""
    value = info.get("revisit") if isinstance(info, dict) else None
    return bool(value) if isinstance(value, bool | np.bool_) else None


def bad_values(observations: np.ndarray, rewards: np.ndarray | None = None) -> dict[int, str]:
    """What is not finite or beyond the limit in ``observations`` [L, *obs] and ``rewards`` [L], by lane."""
    floats = observations.dtype != np.uint8
    # A NaN fails every comparison.
    fine = rewards is None or np.abs(rewards).max() <= LIMIT
    if fine and (not floats or np.abs(observations).max() <= LIMIT):
        return {}
    found: dict[int, str] = {}
    for lane, observation in enumerate(observations):
        wrong = ~(np.abs(observation) <= LIMIT) if floats else np.zeros(1, np.bool_)
        if wrong.any():
            place = tuple(int(index) for index in np.argwhere(wrong)[0])
            found[lane] = f"observation is {_number(observation[place])} at {list(place)}"
        elif rewards is not None and not abs(rewards[lane]) <= LIMIT:
            found[lane] = f"reward is {_number(rewards[lane])}"
    return found


def refuse_faults(env_id: str, step: int, faults: dict[int, str]) -> None:
    """Raise EnvironmentFault for the first of ``faults``, if there is one: for who has a single environment."""
    for lane, what in faults.items():
        raise EnvironmentFault(sentence(env_id, lane, step, what))


def sentence(env_id: str, lane: int, step: int, what: str) -> str:
    """How a fault is told everywhere."""
    return f"{env_id}, lane {lane}, step {step} of its episode: its {what}"


def _number(value: float) -> str:
    return f"{value:g}, beyond {LIMIT:g}" if np.isfinite(value) else f"{value:g}"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


class Patience:
    """Counts the faults of L lanes, and says when they come so often that nothing is gained by going on.

    A fault costs its episode. It is made up for by an episode of the lane that ends well, or by enough good steps.
    """

    def __init__(self, num_lanes: int) -> None:
        self._time = self._newest_fault = self._in_a_row = 0
        self._began = np.zeros(num_lanes, np.int64)
        self._ends = np.zeros(num_lanes, np.int64)
        self._faults = np.zeros(num_lanes, np.int64)
        self._debts = np.zeros(num_lanes)
        self._first = [""] * num_lanes

    def step(self, ended: np.ndarray) -> None:
        """All lanes made a step; in ``ended`` (bool [L]) it was the last of an episode."""
        self._time += 1
        if ended.any():
            self._ends[ended] = self._time
            # Where the next step only resets.
            self._began[ended] = self._time + 1

    def restart(self) -> None:
        """New episodes begin in all lanes."""
        self._began[:] = self._time

    def steps_played(self, lane: int) -> int:
        """Steps of the lane's current episode."""
        return max(0, self._time - int(self._began[lane]))

    def fault(self, lane: int, what: str) -> None:
        """The lane's episode ends by a fault; raises EnvironmentFault where it is one too many."""
        good_steps = self._time - int(self._faults[lane])
        debt = 0 if self._ends[lane] > self._faults[lane] else self._debts[lane] - good_steps / FORGIVEN_AFTER
        if debt <= 0:
            self._first[lane] = what
        self._debts[lane] = debt = max(0, debt) + 1
        self._in_a_row = 1 if self._ends.max() > self._newest_fault else self._in_a_row + 1
        self._faults[lane] = self._began[lane] = self._newest_fault = self._time
        if debt >= LANE_FAULTS:
            raise EnvironmentFault(f"{self._first[lane]}, and so again and again, and no episode ended well")
        if self._in_a_row >= FAULTS_IN_A_ROW:
            raise EnvironmentFault(f"{what}, the {self._in_a_row}th such fault, and no episode ended well")
