"""Whose code may run because a file names it: the project's own modules, and those that the user names.

An environment `module:EnvId` imports ``module``, and so does a novelty, a torso or a trace `module:Name`. On a command
line that is the user's wish; in a run's config or an exported policy, which may come from somebody else, it is not.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from types import ModuleType

from actors.environments.door import in_words


class UntrustedModule(ValueError):
    """A file names a module that nobody vouched for; the message says how to do that."""


def module_of(env_id: str) -> str:
    """``module`` of `module:EnvId`; empty for an id without one."""
    return env_id.rpartition(":")[0]


def refuse_untrusted(
    name: str, trust_modules: Collection[str], source: object, remedy: str, kind: str = "environment"
) -> None:
    """Raise UntrustedModule if ``source`` makes us import a module that is neither ours nor in ``trust_modules``.

    ``name`` of what ``kind``: `module:EnvId` and the like. A trusted package vouches for its submodules. ``remedy``
    completes the message: what to add, "{}" being the module.
    """
    module = module_of(name)
    vouched = ("actors", *trust_modules)
    if module and not any(module == name or module.startswith(f"{name}.") for name in vouched):
        raise UntrustedModule(
            f"{source} asks for the {kind} {name}, whose module would be imported and run: if you trust it, "
            f"{remedy.format(module)}."
        )


def import_named(module: str, subject: str, refused: type[ValueError]) -> ModuleType:
    """The module of that name, imported; ``refused``, saying that ``subject`` cannot be, whatever it does then."""
    try:
        return importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise refused(f"{subject} cannot be imported ({error}); install it or put its folder on PYTHONPATH") from error
    except BaseException as error:  # when it is run, sys.exit included
        raise refused(f"{subject} cannot be imported: {in_words(error)}") from error
