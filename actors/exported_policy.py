"""A trained policy in two files, ``policy.safetensors`` and ``policy.json``, and the object that plays it.

Neither file can run code. Written by ``launch.py export``, read by `agent57.load_policy`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from actors.environments.config import keyword_arguments
from actors.environments.contract import EnvironmentConfig
from actors.environments.door import Refused
from actors.environments.kinds import atari_rom
from actors.environments.supported_spaces import observation_layout
from actors.environments.training_environment import TrainingEnvironment
from actors.extensions import load_extensions, refuse_untrusted_extensions
from actors.policy import Policy
from actors.trusted_modules import UntrustedModule, refuse_untrusted
from agent57.config import AgentConfig, config_from_dict
from agent57.networks import Agent57Networks, flatten_weights
from agent57.novelty import make_networks
from agent57.structures import EnvironmentSpec
from replay.whole_files import write_whole

WEIGHTS_FILE, CONFIG_FILE = "policy.safetensors", "policy.json"
TRUST_REMEDY = "load it with load_policy(path, trust_modules=['{}'])"
FORMAT = 2


class ExportedPolicy(Policy):
    """A `Policy` that knows its environment: it takes plain observations of it, and can make it.

    ``about`` holds what the file says of the policy's origin. The environment's module is imported only when it is
    needed, and only if it is the project's own or one of ``trust_modules``: UntrustedModule, a ValueError, otherwise.
    """

    def __init__(
        self,
        env_id: str,
        environment: EnvironmentConfig,
        first_action: int,
        about: dict[str, Any],
        trust_modules: Collection[str],
        *policy: Any,
        **options: Any,
    ) -> None:
        super().__init__(*policy, **options)
        self.env_id, self.environment, self.about = env_id, environment, about
        self._first_action, self._trust_modules = first_action, tuple(trust_modules)
        self._convert: Any = None

    def make_env(self, render_mode: str | None = None) -> TrainingEnvironment:
        """The environment as in training; on Atari with the paper's preprocessing, which plain ids do not have."""
        self._trust()
        return TrainingEnvironment(self.env_id, self.environment, render_mode)

    def act(self, observation: Any, reward: float = 0.0) -> int:
        """See `Policy.act`; observations may be as ``gymnasium.make`` gives them or as `make_env` does.

        ValueError for anything else, such as Atari's raw screens.
        """
        if not isinstance(observation, np.ndarray) or observation.shape != self.spec.observation_shape:
            observation = self._converted(observation)
        return super().act(observation, reward) + self._first_action

    def _converted(self, observation: Any) -> np.ndarray:
        shape = self.spec.observation_shape
        if isinstance(observation, list | tuple):
            plain = np.asarray(observation)
            if plain.shape == shape:
                return plain
        self._trust()
        if atari_rom(self.env_id) is None:
            if self._convert is None:
                made = gymnasium.make(self.env_id, **keyword_arguments(self.environment.arguments))
                self._convert = observation_layout(self.env_id, made.observation_space)[3]
                made.close()
            try:
                observation = self._convert(observation)
            except Refused as refused:
                remedy = "make the environment with policy.make_env()"
                raise ValueError(f"the {refused} as of {self.env_id}: {remedy}") from refused
        elif np.shape(observation) in (shape[1:], (*shape[1:], 1)):
            observation = np.asarray(observation).reshape(shape)
        if np.shape(observation) != shape:
            raise ValueError(
                f"this policy sees {self.env_id} in the shape {shape}, not {np.shape(observation)}: make the "
                "environment with policy.make_env()"
            )
        return observation

    def _trust(self) -> None:
        refuse_untrusted(self.env_id, self._trust_modules, "this policy", TRUST_REMEDY)


def save_policy(
    folder: Path,
    env_id: str,
    environment: EnvironmentConfig,
    spec: EnvironmentSpec,
    first_action: int,
    agent: AgentConfig,
    networks: Agent57Networks,
    policy_index: int,
    epsilon: float,
    running_state: dict[str, Any] | None,
    about: dict[str, Any],
) -> None:
    """Write the two files into ``folder``, made if need be.

    ``first_action`` is what the environment calls action 0. ``running_state`` (`Lanes.running_state`) lets novelty go
    on from where training was; without it the first episode finds everything new.
    """
    document = {
        "format": FORMAT,
        "env": env_id,
        "policy_index": policy_index,
        "epsilon": epsilon,
        "spec": dataclasses.asdict(spec),
        "first_action": first_action,
        "environment": dataclasses.asdict(environment),
        "agent": dataclasses.asdict(agent),
        "running_state": None if running_state is None else _to_json(running_state),
        "about": about,
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in networks.state_dict().items()}
    write_whole(folder / WEIGHTS_FILE, save(weights, metadata={"format": "pt"}))
    write_whole(folder / CONFIG_FILE, json.dumps(document, indent=2) + "\n")


def load_policy(
    path: str | Path,
    policy_index: int | None = None,
    epsilon: float | None = None,
    seed: int = 0,
    *,
    trust_modules: Collection[str] = (),
) -> ExportedPolicy:
    """The policy in the folder ``path``; see `ExportedPolicy` and `Policy`.

    ``policy_index`` picks another member of the family than the exported one, ``epsilon`` another share of random
    actions; ``seed`` draws those. Nothing of the file is run: a module of an environment that it names is imported
    only if it stands in ``trust_modules``, and not before `ExportedPolicy.make_env` or a conversion needs it. Raises
    FileNotFoundError if the files are missing, ValueError if they are damaged.
    """
    folder = Path(path)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}: is it what 'launch.py export' wrote?")
    try:
        document = json.loads((folder / CONFIG_FILE).read_text())
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']}, this version reads {FORMAT}")
        spec: EnvironmentSpec = config_from_dict(EnvironmentSpec, document["spec"], "spec.")
        agent: AgentConfig = config_from_dict(AgentConfig, document["agent"], "agent.")
        environment = config_from_dict(EnvironmentConfig, document["environment"], "environment.")
        refuse_untrusted_extensions(agent, trust_modules, f"the policy in {folder}", TRUST_REMEDY)
        load_extensions(agent)
        networks = make_networks(agent, spec)
        networks.load_state_dict(load_file(folder / WEIGHTS_FILE))
        policy = ExportedPolicy(
            document["env"],
            environment,
            document["first_action"],
            document["about"],
            trust_modules,
            spec,
            agent,
            flatten_weights(networks),
            document["policy_index"] if policy_index is None else policy_index,
            epsilon=document["epsilon"] if epsilon is None else epsilon,
            seed=seed,
        )
        if document["running_state"] is not None:
            policy.load_running_state(_from_json(document["running_state"]))
    except UntrustedModule:
        raise
    # Also a document nested too deeply (RecursionError is a RuntimeError) and sizes that no machine has room for.
    except (LookupError, TypeError, AttributeError, RuntimeError, MemoryError, SafetensorError, ValueError) as error:
        raise ValueError(f"{folder} cannot be loaded as a policy: {error}") from error
    return policy


def _to_json(running_state: Any) -> Any:
    if isinstance(running_state, dict):
        return {name: _to_json(value) for name, value in running_state.items()}
    return np.asarray(running_state).tolist()


def _from_json(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _from_json(value) for name, value in state.items()}
    return np.asarray(state, np.float64) if isinstance(state, list) else float(state)
