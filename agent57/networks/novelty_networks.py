"""The networks of NGU's novelty: the embedding with its classifier, and the RND pair.

NGU section 2 (controllable states, RND), Burda et al. 2018 (normalised RND inputs, orthogonal init).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from agent57.config import NetworkConfig
from agent57.networks.recurrent import mlp_head
from agent57.structures import EnvironmentSpec
from agent57.torsos import Torso, shallow


def _unchanged(observations: Tensor) -> Tensor:
    return observations


@torch.no_grad()
def moments(
    samples: Tensor, counted: Tensor, sum_over_ranks: Callable[[Tensor], Tensor] = _unchanged
) -> tuple[Tensor, Tensor, Tensor]:
    """(number n [], mean, variance [*obs]) of those ``samples`` [N, *obs] that are ``counted`` [N], pixel by pixel.

    ``sum_over_ranks`` adds up in place what several learners have.
    """
    # torch.var_mean over the first axis takes twenty times as long on a CPU.
    shape = samples.shape[1:]
    samples, counted = samples.flatten(1).float(), counted.float()
    sums = torch.cat([torch.mv(samples.T, counted), counted.sum().unsqueeze(0)])
    count = sum_over_ranks(sums)[-1]
    mean = sums[:-1] / count.clamp(min=1)
    # Deviations from the common mean: a difference of large squares would lose the variance.
    squares = sum_over_ranks(torch.mv((samples - mean).square().T, counted))
    return count, mean.view(shape), (squares / count.clamp(min=1)).view(shape)


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
        self.absorb(*moments(observations, torch.ones(len(observations), device=observations.device)))

    @torch.no_grad()
    def absorb(self, n: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Update with n [] observations of this mean and variance [*obs]; elements that overflow stay as they are.

        Where n is 0 all do.
        """
        weight = n / (self.count + n).clamp(min=1)
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
        self.torso = Torso(spec, shallow(config), normalized=self._normalizes)
        self.output = nn.Linear(config.torso_size, config.embedding_size)
        self.classifier = mlp_head(2 * config.embedding_size, config.embedding_hidden, spec.num_actions)

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
    torso = Torso(spec, shallow(config), normalized=True)
    network = nn.Sequential(torso, nn.Linear(config.torso_size, config.rnd_size))
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # Initialised in a plain copy: orthogonal_ cannot write into channels-last weights.
            weight = torch.empty(layer.weight.shape)
            nn.init.orthogonal_(weight, math.sqrt(2))
            layer.weight.data.copy_(weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network
