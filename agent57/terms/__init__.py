"""The terms of the loss, a module each; `learner/learner.py` adds them up.

The Q-networks' own term comes first and is always there (`q_td.py`). Those of the novelty follow, and whatever `TERMS`
names: a function that takes an `Update` and returns a `Term`.
"""

from __future__ import annotations

from collections.abc import Callable

from agent57.terms.term import Term, Update

LossTerm = Callable[[Update], Term]

TERMS: tuple[LossTerm, ...] = ()
"""Terms of every run beside those of the Q-networks and of its novelty."""
