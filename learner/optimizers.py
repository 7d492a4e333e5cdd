"""Adam, and AdamW on matrices alone: made, and loaded from a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from learner.config import LearnerConfig


def make_optimizer(
    name: str, parameters: list[nn.Parameter], config: LearnerConfig, of_q_network: bool
) -> torch.optim.Adam:
    """The optimizer of the network ``name``, its moments made already.

    They are made by a step that is skipped, so that its state has the same form, and the same place in memory, always.
    """
    optimizer = _optimizer(name, parameters, config, of_q_network)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    skip_where(optimizer, torch.ones((), device=parameters[0].device))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    skip_where(optimizer, torch.zeros((), device=parameters[0].device))
    return optimizer


def skip_where(optimizer: torch.optim.Optimizer, found_inf: Tensor) -> None:
    """Let the next step be skipped, and not counted, if ``found_inf`` [] is 1: decided on the device.

    This is how gradient scalers do it.
    """
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]


def _optimizer(
    name: str, parameters: list[nn.Parameter], config: LearnerConfig, of_q_network: bool
) -> torch.optim.Adam:
    # A step that can be captured as a CUDA graph keeps its count on the device.
    how: dict[str, Any] = {
        "eps": config.adam_epsilon,
        "fused": True,
        "capturable": parameters[0].is_cuda,
    }
    if of_q_network and config.optimizer == "adamw":
        matrices = [parameter for parameter in parameters if parameter.dim() > 1]
        others = [parameter for parameter in parameters if parameter.dim() <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, **how)
    rates = {"embedding": config.embedding_learning_rate, "rnd": config.rnd_learning_rate}
    decay = config.embedding_l2 if name == "embedding" else 0.0
    return torch.optim.Adam(parameters, lr=rates.get(name, config.learning_rate), weight_decay=decay, **how)


def load_moments(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Adam's moments out of ``saved``; rates and constants stay those of the config, which a resume may change.

    Raises RuntimeError unless they have the shapes of the parameters: fused kernels write without looking.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, held in saved["state"].items():
        shape = parameters[number].shape
        if {name: value.shape for name, value in held.items()} != {"step": (), "exp_avg": shape, "exp_avg_sq": shape}:
            raise RuntimeError(f"the optimizer's moments of parameter {number} do not have its shape")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    _match_layouts(optimizer)


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Lay Adam's moments out as their parameters are.

    Files give plain layouts, but the fused kernel pairs raw memory, and convolution weights are channels-last.
    """
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if value.shape == parameter.shape:
                held[name] = torch.empty_like(parameter).copy_(value)
