"""The five networks: two recurrent Q-networks, the embedding with its classifier, the RND pair.

Agent57 section 3.1 and appendix (separate extrinsic and intrinsic networks), R2D2 (LSTM, dueling heads), NGU
section 2 (controllable states, RND), Burda et al. 2018 (normalised RND inputs, orthogonal init). Used by the
lanes for acting (one step at a time) and by the learner (whole sequences).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agent57.config import NetworkConfig
from agent57.scales import Scales
from agent57.structures import NO_ACTION, EnvironmentSpec
from agent57.torsos import Torso
from agent57.values import rescale

RecurrentState = tuple[Tensor, Tensor]
"""(h, c) of one Q-network, each [B, lstm_size]."""


class QNetwork(nn.Module):
    """Q(x, a, j) of one reward stream: torso -> LSTM -> dueling heads.

    The LSTM also sees the policy index, the previous action (one-hot; zeros at an episode's start) and both
    rewards under h, because raw rewards would saturate it. With ``config.recurrent`` off it starts every step from
    zeros, whatever state it is given.
    """

    def __init__(self, spec: EnvironmentSpec, num_policies: int, config: NetworkConfig) -> None:
        super().__init__()
        self.recurrent = config.recurrent
        self.num_actions, self.num_policies, self.lstm_size = spec.num_actions, num_policies, config.lstm_size
        self.torso = Torso(spec, config)
        self.lstm = nn.LSTM(config.torso_size + num_policies + spec.num_actions + 2, config.lstm_size)
        self.value_head = _head(config.lstm_size, config.head_size, 1)
        self.advantage_head = _head(config.lstm_size, config.head_size, spec.num_actions)

    def forward(
        self,
        observations: Tensor,
        previous_actions: Tensor,
        extrinsic_rewards: Tensor,
        intrinsic_rewards: Tensor,
        policy_index: Tensor,
        state: RecurrentState,
    ) -> tuple[Tensor, RecurrentState]:
        """Q-values [T, B, A] and the state after the last step, for a whole sequence.

        ``observations`` [T, B, *obs], or their `torso_inputs`; ``previous_actions`` and both rewards [T, B];
        ``policy_index`` [B].
        """
        steps, batch = previous_actions.shape
        features = _frame_by_frame(self.torso, observations)
        inputs = self._lstm_inputs(
            features, previous_actions, extrinsic_rewards, intrinsic_rewards, policy_index.expand(steps, batch)
        )
        if not self.recurrent:
            # All steps side by side, each as a sequence of one.
            hidden, _ = self.lstm(inputs.flatten(0, 1).unsqueeze(0))
            return self._heads(hidden.view(steps, batch, -1)), (torch.zeros_like(state[0]), torch.zeros_like(state[1]))
        hidden, (h, c) = self.lstm(inputs, (state[0].unsqueeze(0).contiguous(), state[1].unsqueeze(0).contiguous()))
        return self._heads(hidden), (h.squeeze(0), c.squeeze(0))

    def step(
        self,
        observations: Tensor,
        previous_actions: Tensor,
        extrinsic_rewards: Tensor,
        intrinsic_rewards: Tensor,
        policy_index: Tensor,
        state: RecurrentState,
    ) -> tuple[Tensor, RecurrentState]:
        """`forward` for one step, without the time axis: Q-values [B, A] and the state after it.

        Goes through ``lstm_cell``: one-step ``nn.LSTM`` calls pay milliseconds of set-up on the CPU.
        """
        inputs = self._lstm_inputs(
            self.torso(observations), previous_actions, extrinsic_rewards, intrinsic_rewards, policy_index
        )
        w_ih, w_hh, b_ih, b_hh = self.lstm.all_weights[0]
        if not self.recurrent:
            state = (torch.zeros_like(state[0]), torch.zeros_like(state[1]))
        h, c = torch.lstm_cell(inputs, state, w_ih, w_hh, b_ih, b_hh)
        return self._heads(h), (h, c)

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
        return torch.cat(
            [
                features,
                F.one_hot(policy_index, self.num_policies).to(features.dtype),
                F.one_hot(previous_actions - NO_ACTION, self.num_actions + 1)[..., 1:].to(features.dtype),
                rescale(rewards),
            ],
            -1,
        )

    def _heads(self, hidden: Tensor) -> Tensor:
        advantages = self.advantage_head(hidden)
        return self.value_head(hidden) + advantages - advantages.mean(-1, keepdim=True)


def _frame_by_frame(function: Callable[[Tensor], Tensor], observations: Tensor) -> Tensor:
    """``function`` of all frames [T, B, ...] at once, as [T, B, ...]; in memory's order, lest they be copied."""
    columns_lie_whole = observations.stride(1) > observations.stride(0)
    rows = observations.transpose(0, 1) if columns_lie_whole else observations
    results = function(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
    return results.transpose(0, 1) if columns_lie_whole else results


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def _unchanged(observations: Tensor) -> Tensor:
    return observations


class ObservationNormalizer(nn.Module):
    """Observations minus their running mean, over their running std, element by element, clipped to +-5.

    The learner measures (`observe`); the moments travel with the weights. Burda et al. 2018 do this for RND.
    The embedding needs it as much: on raw Pong frames its classifier stayed at chance for thousands of updates,
    because nearly all of a frame is constant. ``count`` 0 means that nothing was measured yet; observations are
    then only scaled.
    """

    CLIP = 5.0
    mean: Tensor
    std: Tensor
    count: Tensor

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(spec.observation_shape))
        self.register_buffer("std", torch.full(spec.observation_shape, spec.observation_scale))
        self.register_buffer("count", torch.zeros(()))
        self._min_std = 1e-3 * spec.observation_scale

    @torch.no_grad()
    def observe(self, observations: Tensor) -> None:
        """Update mean and std with observations [n, *obs]; n = 0 changes nothing."""
        n = len(observations)
        if n == 0:
            return
        variance, mean = torch.var_mean(observations.float(), 0, correction=0)
        self.absorb(n, mean, variance)

    @torch.no_grad()
    def absorb(self, n: int | Tensor, mean: Tensor, variance: Tensor) -> None:
        """Update with n > 0 observations of this mean and variance [*obs]; elements that overflow stay as they are."""
        weight = n / (self.count + n)
        shift = mean - self.mean
        # While nothing was measured, the placeholder's weight 1 - n/n is 0.
        new_variance = (1 - weight) * self.std.square() + weight * variance + weight * (1 - weight) * shift.square()
        fine = new_variance.isfinite()
        self.std.copy_(torch.where(fine, new_variance.sqrt(), self.std))
        self.mean.add_(torch.where(fine, weight * shift, 0))
        self.count.add_(n)

    def forward(self, observations: Tensor, arrange: Callable[[Tensor], Tensor] = _unchanged) -> Tensor:
        """[n, *obs] -> float32 [n, *obs], or, of what a torso's ``arrange`` made of them, that shape."""
        # A pixel that never changed has std 0: the floor makes any change of it count as large.
        mean, factor = (arrange(each.unsqueeze(0)) for each in (self.mean, 1 / self.std.clamp(min=self._min_std)))
        return (arrange(observations) - mean).mul_(factor).clamp_(-self.CLIP, self.CLIP)


class EmbeddingNetwork(nn.Module):
    """Controllable states f(x), and the classifier p(a_t | f(x_t), f(x_{t+1})) that trains them.

    NGU section 2 ("Episodic novelty module"). It normalises its inputs by moments of its own, so that a lane
    whose embedding must not change during an episode keeps the moments too; with ``embedding_inputs`` "scaled" it uses
    none.
    """

    def __init__(self, spec: EnvironmentSpec, config: NetworkConfig) -> None:
        super().__init__()
        self.normalizer = ObservationNormalizer(spec)
        self._normalizes = config.embedding_inputs == "normalized"
        self.torso = Torso(spec, config, normalized=self._normalizes)
        self.output = nn.Linear(config.torso_size, config.embedding_size)
        self.classifier = _head(2 * config.embedding_size, config.embedding_hidden, spec.num_actions)

    def forward(self, observations: Tensor) -> Tensor:
        """f(x): [N, *obs] -> float32 [N, embedding_size]."""
        if self._normalizes:
            observations = self.normalizer(observations, self.torso.arrange)
        return self.output(self.torso(observations))

    def action_logits(self, embeddings: Tensor, next_embeddings: Tensor) -> Tensor:
        """Logits over the action between two consecutive states; [N, E], [N, E] -> [N, A]."""
        return self.classifier(torch.cat([embeddings, next_embeddings], -1))


class RandomNetworkDistillation(nn.Module):
    """Life-long novelty: the error of a trained predictor against a fixed random network.

    Burda et al. 2018. Without normalised inputs the target's outputs are all but constant and novelty is
    silently dead.
    """

    def __init__(self, spec: EnvironmentSpec, config: NetworkConfig) -> None:
        super().__init__()
        self.normalizer = ObservationNormalizer(spec)
        self.target = _rnd_network(spec, config)
        self.predictor = _rnd_network(spec, config)
        self.target.requires_grad_(False)

    def forward(self, observations: Tensor) -> Tensor:
        """Mean squared error between predictor and target, [N, *obs] -> float32 [N]."""
        torso: Torso = self.target[0]  # type: ignore[assignment]
        x = self.normalizer(observations, torso.arrange)
        with torch.no_grad():
            target = self.target(x)
        return (self.predictor(x) - target).square().mean(-1)


def _rnd_network(spec: EnvironmentSpec, config: NetworkConfig) -> nn.Sequential:
    network = nn.Sequential(Torso(spec, config, normalized=True), nn.Linear(config.torso_size, config.rnd_size))
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # Initialised in a plain copy: orthogonal_ cannot write into channels-last weights.
            weight = torch.empty(layer.weight.shape)
            nn.init.orthogonal_(weight, math.sqrt(2))
            layer.weight.data.copy_(weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network


class Agent57Networks(nn.Module):
    """All that acting needs: both Q-networks, those of the novelty, and the learner's scales.

    ``novelty`` makes networks by the names that they get here (`Novelty.modules`); by default NGU's two.
    ``scale_policies``: a scale of TD errors for each policy.
    With ``config.separate`` off there is no ``q_int`` (None): ``q_ext`` learns the mixed reward, and all intrinsic
    Q-values count as 0.
    """

    embedding: EmbeddingNetwork
    rnd: RandomNetworkDistillation

    def __init__(
        self,
        spec: EnvironmentSpec,
        num_policies: int,
        config: NetworkConfig,
        novelty: Callable[[], dict[str, nn.Module]] | None = None,
        scale_policies: bool = False,
    ) -> None:
        super().__init__()
        self.scales = Scales(num_policies if scale_policies else None)
        self.q_ext = QNetwork(spec, num_policies, config)
        self.q_int = QNetwork(spec, num_policies, config) if config.separate else None
        if novelty is None:
            self.embedding = EmbeddingNetwork(spec, config)
            self.rnd = RandomNetworkDistillation(spec, config)
        else:
            for name, module in novelty().items():
                self.add_module(name, module)

    @property
    def q_networks(self) -> tuple[QNetwork, ...]:
        """(extrinsic, intrinsic), or the single network alone."""
        return (self.q_ext,) if self.q_int is None else (self.q_ext, self.q_int)


@torch.no_grad()
def flatten_weights(module: nn.Module) -> np.ndarray:
    """All parameters and buffers of ``module`` as one float32 vector: the form in which weights travel."""
    return torch.cat([tensor.detach().float().reshape(-1) for tensor in module.state_dict().values()]).cpu().numpy()


@torch.no_grad()
def load_flat_weights(module: nn.Module, vector: np.ndarray) -> None:
    """Copy a vector from `flatten_weights` into ``module``, cast to each tensor's own dtype and device.

    Raises ValueError if it was made from a module of another size.
    """
    tensors = list(module.state_dict().values())
    total = sum(tensor.numel() for tensor in tensors)
    if vector.shape != (total,):
        raise ValueError(f"expected {total} weights, got {vector.shape}")
    # One copy: vectors that come out of shared memory are read-only, and torch warns of those.
    flat = torch.from_numpy(vector if vector.flags.writeable else vector.copy())
    for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(values.view(tensor.shape))
