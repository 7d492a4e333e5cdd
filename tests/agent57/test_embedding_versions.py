"""Which version of the embedding a lane uses, against the rules written as a list of numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from agent57.config import NetworkConfig
from agent57.networks import EmbeddingNetwork
from agent57.novelty.embedding_versions import EmbeddingVersions
from agent57.structures import EnvironmentSpec

NETWORK = NetworkConfig("mlp", torso_size=4, embedding_size=2, embedding_hidden=4)


def network_of(version: int) -> EmbeddingNetwork:
    """An embedding whose output is its version, plus the observation's first pixel in the second place."""
    network = EmbeddingNetwork(EnvironmentSpec((3,), "float32", 1.0, 2), NETWORK)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    for layer in (network.torso.layers[1], network.torso.layers[4]):
        torch.nn.init.eye_(layer.weight)
    network.output.weight.data[1, 0] = 1.0
    network.output.bias.data[0] = version
    return network.requires_grad_(False)


def weights(version: int) -> dict[str, torch.Tensor]:
    return network_of(version).state_dict()


def make_versions(num_lanes: int) -> EmbeddingVersions:
    """All lanes on version 0."""
    return EmbeddingVersions((network_of(0), network_of(0)), num_lanes)


def in_use(versions: EmbeddingVersions, num_lanes: int) -> list[int]:
    """The version of each lane, as its embeddings tell; each lane must see its own observation."""
    observations = torch.rand(num_lanes, 3)
    embeddings = versions.embed(observations)
    torch.testing.assert_close(embeddings[:, 1], observations[:, 0])
    return embeddings[:, 0].int().tolist()


def start(versions: EmbeddingVersions, *lanes: int, num_lanes: int = 3) -> list[int]:
    versions.start_episodes(np.isin(np.arange(num_lanes), lanes))
    return in_use(versions, num_lanes)


class Rules:
    """Lanes move to the newest version as their episodes begin; one that waits comes in when no lane is behind."""

    def __init__(self, num_lanes: int) -> None:
        self.lanes = [0] * num_lanes
        self.newest = 0
        self.waiting: int | None = None

    def offer(self, version: int) -> None:
        self.waiting = version
        self.admit()

    def start(self, lanes: np.ndarray) -> None:
        self.move(lanes)
        self.admit()
        self.move(lanes)

    def move(self, lanes: np.ndarray) -> None:
        self.lanes = [self.newest if moves else version for version, moves in zip(self.lanes, lanes, strict=True)]

    def admit(self) -> None:
        if self.waiting is not None and set(self.lanes) == {self.newest}:
            self.newest, self.waiting = self.waiting, None


def test_a_lane_keeps_its_version_until_its_next_episode() -> None:
    versions = make_versions(3)
    versions.offer(weights(1))
    assert in_use(versions, 3) == [0, 0, 0]
    assert start(versions, 1) == [0, 1, 0]
    assert start(versions, 1, 2) == [0, 1, 1]
    assert start(versions, 0) == [1, 1, 1]


def test_a_third_version_waits_until_the_first_has_no_lane() -> None:
    versions = make_versions(3)
    versions.offer(weights(1))
    start(versions, 1, 2)
    versions.offer(weights(2))
    assert start(versions, 1) == [0, 1, 1]
    # The last lane on version 0 ends: it takes the waiting version at once, the others stay on theirs.
    assert start(versions, 0) == [2, 1, 1]
    assert start(versions, 2) == [2, 1, 2]


def test_of_several_that_wait_only_the_latest_comes_in() -> None:
    versions = make_versions(3)
    versions.offer(weights(1))
    start(versions, 0)
    for version in (2, 3, 4):
        versions.offer(weights(version))
    start(versions, 1)
    assert start(versions, 2) == [1, 1, 4]
    assert start(versions, 0, 1, 2) == [4, 4, 4]


def test_offers_before_any_episode_reach_the_first_one() -> None:
    """Workers get their first weights before their first step."""
    versions = make_versions(3)
    versions.offer(weights(1))
    versions.offer(weights(2))
    assert start(versions, 0, 1, 2) == [2, 2, 2]


def test_what_waits_is_a_copy() -> None:
    """The networks that were offered are overwritten by the next weights."""
    versions = make_versions(3)
    versions.offer(weights(1))
    start(versions, 1)
    offered = weights(2)
    versions.offer(offered)
    for tensor in offered.values():
        tensor.fill_(100.0)
    start(versions, 0)
    assert start(versions, 2) == [1, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_random_offers_and_episodes_follow_the_rules(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_lanes = int(rng.integers(1, 6))
    versions, rules = make_versions(num_lanes), Rules(num_lanes)
    most_alive, reached = 0, set()
    for version in range(1, 80):
        before = in_use(versions, num_lanes)
        if rng.random() < 0.4:
            versions.offer(weights(version))
            rules.offer(version)
            assert in_use(versions, num_lanes) == before
        starts = rng.random(num_lanes) < 0.25
        if starts.any():
            versions.start_episodes(starts)
            rules.start(starts)
        now = in_use(versions, num_lanes)
        assert now == rules.lanes
        assert [now[lane] for lane in np.flatnonzero(~starts)] == [before[lane] for lane in np.flatnonzero(~starts)]
        most_alive = max(most_alive, len({*now, rules.newest}))
        reached |= set(now)
    assert most_alive == 2
    assert len(reached) > 5


def test_a_restored_state_goes_on_with_what_was_waiting() -> None:
    versions = make_versions(3)
    versions.offer(weights(1))
    start(versions, 1, 2)
    versions.offer(weights(2))
    restored = make_versions(3)
    restored.load_state_dict(copy.deepcopy(versions.state_dict()))
    assert in_use(restored, 3) == [0, 1, 1]
    assert start(restored, 0) == [2, 1, 1]
    # The one it was copied from is not touched.
    assert in_use(versions, 3) == [0, 1, 1]
