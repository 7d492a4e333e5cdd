"""A nested frozen config out of plain dicts, such as JSON gives; every key and type is checked."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any


def config_from_dict(cls: Any, values: Any, where: str = "") -> Any:
    """The dataclass ``cls`` with the fields in ``values``, nested ones too; others keep their defaults.

    Raises ValueError for an unknown key or a value of the wrong type, naming it below ``where``.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where or 'the config'} should be an object")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
    if unknown:
        raise ValueError(f"unknown key {where}{unknown[0]}")
    arguments = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            value = config_from_dict(hint, value, f"{where}{name}.")
        else:
            value = tuple(value) if isinstance(value, list) and typing.get_origin(hint) is tuple else value
            if not _fits(value, hint):
                raise ValueError(f"{where}{name} should be {hint}, not {value!r}")
        arguments[name] = value
    return cls(**arguments)


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        entries = typing.get_args(hint)
        if isinstance(value, tuple) and entries[-1] is Ellipsis:
            entries = entries[:1] * len(value)
        return isinstance(value, tuple) and len(value) == len(entries) and all(map(_fits, value, entries))
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
