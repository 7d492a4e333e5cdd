"""What every Q-network has in common: torso -> LSTM. R2D2 section 2.3, Agent57 section 3.1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from agent57.config import NetworkConfig
from agent57.structures import EnvironmentSpec, one_hot
from agent57.torsos import Torso
from agent57.values import rescale

RecurrentState = tuple[Tensor, Tensor]
"""(h, c) of one Q-network, each [B, lstm_size]."""


class RecurrentNetwork(nn.Module):
    """Torso -> LSTM; subclasses make ``heads`` of its outputs, and may have it see the policy index.

    The LSTM also sees the previous action (one-hot; zeros at an episode's start) and both rewards under h, because raw
    rewards would saturate it. With ``config.recurrent`` off it starts every step from zeros, whatever its state.
    """

    def __init__(self, spec: EnvironmentSpec, seen_policies: int, config: NetworkConfig) -> None:
        """``seen_policies``: how many policies the LSTM is to tell apart; 0 if the index is none of its inputs."""
        super().__init__()
        self.recurrent = config.recurrent
        self.num_actions, self.lstm_size, self._seen_policies = spec.num_actions, config.lstm_size, seen_policies
        self.torso = Torso(spec, config)
        self.lstm = nn.LSTM(config.torso_size + seen_policies + spec.num_actions + 2, config.lstm_size)

    def heads(self, hidden: Tensor) -> Tensor:
        """The outputs [..., *outputs] for the LSTM's [..., H]."""
        raise NotImplementedError

    def forward(
        self,
        observations: Tensor,
        previous_actions: Tensor,
        extrinsic_rewards: Tensor,
        intrinsic_rewards: Tensor,
        policy_index: Tensor,
        state: RecurrentState,
        draws: Tensor | None = None,
    ) -> tuple[Tensor, RecurrentState]:
        """Outputs [T, B, *outputs] and the state after the last step, for a whole sequence.

        ``observations`` [T, B, *obs], or their `torso_inputs`; ``previous_actions`` and both rewards [T, B];
        ``policy_index`` [B]. ``draws`` [branches, B]: which branches of the torso each sequence leaves out, at all its
        steps, lest values of one step and the next differ by chance (MEME section 4 C1); None: none.
        """
        steps, batch = previous_actions.shape
        of_frames = None if draws is None else draws.unsqueeze(1).expand(-1, steps, batch)
        features = _frame_by_frame(self.torso, observations, of_frames)
        inputs = self._lstm_inputs(
            features, previous_actions, extrinsic_rewards, intrinsic_rewards, policy_index.expand(steps, batch)
        )
        if not self.recurrent:
            # All steps side by side, each as a sequence of one.
            hidden, _ = self.lstm(inputs.flatten(0, 1).unsqueeze(0))
            zeros = (torch.zeros_like(state[0]), torch.zeros_like(state[1]))
            return self.heads(hidden.view(steps, batch, -1)), zeros
        hidden, (h, c) = self.lstm(inputs, (state[0].unsqueeze(0).contiguous(), state[1].unsqueeze(0).contiguous()))
        return self.heads(hidden), (h.squeeze(0), c.squeeze(0))

    def step(
        self,
        observations: Tensor,
        previous_actions: Tensor,
        extrinsic_rewards: Tensor,
        intrinsic_rewards: Tensor,
        policy_index: Tensor,
        state: RecurrentState,
    ) -> tuple[Tensor, RecurrentState]:
        """`forward` for one step, without the time axis: outputs [B, *outputs] and the state after it.

        Goes through ``lstm_cell``: one-step ``nn.LSTM`` calls pay milliseconds of set-up on the CPU.
        """
        inputs = self._lstm_inputs(
            self.torso(observations), previous_actions, extrinsic_rewards, intrinsic_rewards, policy_index
        )
        w_ih, w_hh, b_ih, b_hh = self.lstm.all_weights[0]
        if not self.recurrent:
            state = (torch.zeros_like(state[0]), torch.zeros_like(state[1]))
        h, c = torch.lstm_cell(inputs, state, w_ih, w_hh, b_ih, b_hh)
        return self.heads(h), (h, c)

    def torso_inputs(self, observations: Tensor) -> Tensor:
        """[T, B, *obs] as the torso computes on them, [T, B, ...]: online and target networks share this work."""
        return _frame_by_frame(lambda frames: self.torso.arrange(frames).to(self.torso.compute_dtype), observations)

    def _lstm_inputs(
        self,
        features: Tensor,
        previous_actions: Tensor,
        extrinsic_rewards: Tensor,
        intrinsic_rewards: Tensor,
        policy_index: Tensor,
    ) -> Tensor:
        rewards = torch.stack([extrinsic_rewards, intrinsic_rewards], -1)
        actions = one_hot(previous_actions, self.num_actions, features.dtype)
        if not self._seen_policies:
            return torch.cat([features, actions, rescale(rewards)], -1)
        policies = one_hot(policy_index, self._seen_policies, features.dtype)
        return torch.cat([features, policies, actions, rescale(rewards)], -1)


def _frame_by_frame(function: Callable[..., Tensor], observations: Tensor, draws: Tensor | None = None) -> Tensor:
    """``function`` of all frames [T, B, ...] at once, as [T, B, ...]; in memory's order, lest they be copied.

    ``draws`` [branches, T, B], if given, are its second argument.
    """
    columns_lie_whole = observations.stride(1) > observations.stride(0)
    rows = observations.transpose(0, 1) if columns_lie_whole else observations
    others = () if draws is None else ((draws.mT if columns_lie_whole else draws).flatten(1),)
    results = function(rows.flatten(0, 1), *others).unflatten(0, rows.shape[:2])
    return results.transpose(0, 1) if columns_lie_whole else results


def mlp_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers on the output of the LSTM or of an embedding."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
