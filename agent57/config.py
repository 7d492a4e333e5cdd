"""Every constant of the algorithm, with the paper's value as its default.

The classes are frozen, each number states its range (`ranges.py`), and nothing is changed after parsing. Values
differing from the paper live in the presets (`cluster/run/presets.py`).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from agent57.ranges import Range, Share, Width, check_ranges

Chosen = TypeVar("Chosen")
Arithmetic = Literal["auto", "float32", "bfloat16"]
"""What torsos compute in (`torsos.resolve_torso_dtype`)."""


def choose(known: Mapping[str, Chosen], name: str, field: str) -> Chosen:
    """The one of ``known`` that the config ``field`` names; ValueError, naming them all, if there is none."""
    require(name in known, f"{field} is {', '.join(known)}, or module:Name of one of your own (got {name!r})")
    return known[name]


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message), the one way configs refuse a value, unless ``condition``."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class PolicyFamilyConfig:
    """The (beta_j, gamma_j) of the N policies (Agent57 appendix, NGU appendix)."""

    num_policies: Annotated[int, Range(at_least=1, at_most=4096)] = 32
    """N, the number of policies; 1 trains a single exploitative policy with beta = 0."""
    beta_max: Annotated[float, Range(at_least=0, at_most=1e6)] = 0.3
    """Largest intrinsic reward weight."""
    gamma_max: Annotated[float, Range(above=0, below=1)] = 0.9999
    """Discount of policy 0; match it to the task's horizon on short tasks."""
    gamma_mid: Annotated[float, Range(above=0, below=1)] = 0.997
    """Discount of policy 7 (families of 10 or more)."""
    gamma_min: Annotated[float, Range(above=0, below=1)] = 0.99
    """Discount of the most exploratory policy."""
    ladder: Literal["agent57", "log_uniform"] = "agent57"
    """How discounts are spaced between them in families of 10 or more: as in Agent57, through gamma-mid; or evenly in
    log(1 - gamma), as in NGU and in smaller families."""

    def __post_init__(self) -> None:
        check_ranges(self, "family")

        require(0 < self.gamma_min <= self.gamma_max < 1, "discounts must satisfy 0 < gamma-min <= gamma-max < 1")
        require(
            self.num_policies < 10 or self.gamma_min <= self.gamma_mid <= self.gamma_max,
            "family.gamma-mid must lie between gamma-min and gamma-max",
        )


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the five networks (Agent57 appendix; NGU appendix for the embedding and RND)."""

    torso: str = "auto"
    """auto, conv, small_conv, mlp, nfnet, or module:Name of your own. conv: Atari's three layers; small_conv: 3x3
    kernels for grids; mlp: flattened input; nfnet: MEME's deep residual network, for a GPU, of the Q-networks alone
    (those of novelty then have what auto gives). auto picks conv for images of 36 pixels or more, small_conv for
    smaller images, mlp for vectors."""
    conv_filters: Annotated[tuple[int, int, int], Range(at_least=1, at_most=1024)] = (32, 64, 64)
    """Filters of the three convolutions (small_conv uses the last two)."""
    nfnet_filters: Annotated[tuple[int, int, int, int], Range(at_least=1, at_most=1024)] = (64, 128, 128, 64)
    """nfnet: filters of its four stages (MEME appendix)."""
    nfnet_blocks: Annotated[int, Range(at_least=1, at_most=64)] = 2
    """nfnet: residual blocks of each stage."""
    stochastic_depth: Annotated[float, Range(at_least=0, below=1)] = 0.1
    """nfnet: probability that a sequence, while it is learned from, leaves a block's branch out."""
    torso_size: Width = 512
    """Width of the linear layer that ends a torso."""
    lstm_size: Width = 512
    """Width of the LSTM."""
    head_size: Width = 512
    """Hidden width of the two dueling heads."""
    embedding_size: Width = 32
    """Width of the controllable state."""
    embedding_hidden: Width = 128
    """Hidden width of the action classifier on two controllable states."""
    embedding_inputs: Literal["normalized", "scaled"] = "normalized"
    """normalized: every pixel by its running mean and std, as for RND; scaled: to [0, 1] alone, as in the paper. Frames
    that hardly change need the first, frames full of noise the second."""
    rnd_size: Width = 128
    """Output width of the RND target and predictor."""
    kind: Literal["separate", "shared", "single"] = "separate"
    """separate: a Q-network each for extrinsic and intrinsic rewards; shared: one torso and LSTM for the values of all
    policies, which all learn from every sequence (MEME section 4 B2, C2); single: one network learns r^e + beta r^i
    (NGU; an ablation)."""
    policy_head: bool = False
    """A head of the shared network that is distilled from the values and acted on (MEME section 4 D)."""
    recurrent: bool = True
    """Carry the LSTM's state from step to step; otherwise every step starts from zeros (an ablation)."""

    def __post_init__(self) -> None:
        check_ranges(self, "network")
        require(not self.policy_head or self.kind == "shared", "network.policy-head is a head of --network.kind shared")


@dataclass(frozen=True)
class IntrinsicConfig:
    """Episodic and life-long novelty (NGU section 2 and appendix)."""

    novelty: str = "both"
    """both, episodic, lifelong, recode, none, or module:Name of your own. both: NGU's product; episodic: the episodic
    part alone; lifelong: RND errors over their standard deviation, as in Burda et al., without an embedding; recode:
    RECODE's one memory for all episodes, in place of both parts; none: intrinsic rewards are 0, and neither embedding
    nor RND is computed or trained (episodic, lifelong and none are ablations)."""
    embedding: Literal["learned", "random"] = "learned"
    """learned: controllable states; random: the embedding network stays as initialised (an ablation)."""
    num_neighbours: Annotated[int, Range(at_least=1, at_most=1000)] = 10
    """k of the k-nearest-neighbour look-up."""
    young_memory: Literal["unpaid", "padded"] = "unpaid"
    """What a memory of fewer than k entries pays. unpaid: nothing; padded: as if the missing neighbours were at the
    average distance, for episodes that are hardly longer than k steps."""
    memory_capacity: Annotated[int, Range(at_least=1, at_most=10**7)] = 30_000
    """Entries of one lane's episodic memory (a ring)."""
    kernel_epsilon: Annotated[float, Range(above=0, at_most=1)] = 1e-4
    """Constant of the inverse kernel."""
    cluster_distance: Annotated[float, Range(at_least=0, at_most=1e6)] = 0.008
    """Relative squared distance below which two states count as the same."""
    pseudo_count: Annotated[float, Range(above=0, at_most=1e6)] = 1e-3
    """Constant c added to the square root of the similarity."""
    max_similarity: Annotated[float, Range(above=0, at_most=1e6)] = 8.0
    """Similarity above which nothing is paid."""
    distance_decay: Annotated[float, Range(at_least=0, below=1)] = 0.999
    """Decay, per step of a lane, of the moving average of squared neighbour distances."""
    atoms: Annotated[int, Range(at_least=1, at_most=10**7)] = 10_000
    """recode: atoms that its memory holds at most (RECODE has 50 000)."""
    count_decay: Annotated[float, Range(at_least=0, at_most=1)] = 0.99999
    """recode: decay of all counts, per lane step. With 64 lanes 0.999 would forget within sixteen steps."""
    atom_tolerance: Annotated[float, Range(at_least=0, at_most=1e6)] = 0.05
    """recode: squared distance to the nearest atom, over the average one, from which a state may become an atom."""
    atom_insertion: Share = 0.5
    """recode: probability that it then does."""
    max_lifelong_scale: Annotated[float, Range(at_least=1, at_most=1e6)] = 5.0
    """L, the upper clip of the life-long multiplier alpha."""
    error_horizon: Annotated[int, Range(at_least=1, at_most=10**12)] = 4_000_000
    """Steps of a worker up to which the horizon of the lasting mean of RND errors grows with the run, and that of the
    recent one, a 64th of it. The predictor must learn a new kind of state within fewer."""

    def __post_init__(self) -> None:
        check_ranges(self, "intrinsic")

        require(
            self.memory_capacity >= self.num_neighbours, "intrinsic.memory-capacity must hold at least num-neighbours"
        )


@dataclass(frozen=True)
class LossConfig:
    """The Retrace update (Agent57 section 3, R2D2 section 2.3)."""

    trace: str = "retrace"
    """retrace, peng, soft_watkins, or module:Name of your own. retrace: the paper's off-policy correction; peng: Peng's
    Q(lambda), uncorrected; soft_watkins: MEME's, cut only where an action was clearly not greedy."""
    trace_lambda: Share = 0.95
    """lambda of the trace."""
    kappa: Annotated[float, Range(at_least=0, at_most=1e9)] = 0.01
    """soft_watkins: an action counts as greedy where its Q is within kappa |Q| of it (MEME section 4 A2)."""
    bootstrap: Literal["target", "online"] = "target"
    """Whose Q-values targets bootstrap from: of the target networks (the paper) or of the online ones (MEME, 4 A1)."""
    trust_region: Annotated[float | None, Range(above=0, at_most=1e9)] = None
    """Leave out steps whose Q is further than this many sigma from the target network's and would be led further away
    (MEME section 4 A1, its alpha); None leaves out none. Sigma is the scale of TD errors, 1 without normalize-td."""
    target_epsilon: Annotated[float, Range(at_least=0, below=1)] = 0.01
    """Epsilon of the epsilon-greedy target policy."""
    mix: Literal["rescaled", "linear"] = "rescaled"
    """How Q^e and Q^i combine: h(h^-1(Q^e) + beta h^-1(Q^i)), or Q^e + beta Q^i."""
    rescale_epsilon: Annotated[float, Range(above=0, at_most=1)] = 1e-3
    """eps of the value rescaling h."""
    priority_eta: Share = 0.9
    """Weight of the largest against the mean TD error in a sequence's priority."""
    normalize_td: bool = False
    """Divide each network's TD errors by their running standard deviation, in loss and priority (not in the paper)."""
    td_scale: Literal["network", "policy"] = "network"
    """Whose standard deviation normalize-td takes: that of all TD errors of a network, or of each of its policies, the
    larger one of the running and the batch's own (MEME section 4 B1)."""
    mixture_eta: Share = 0.5
    """shared network: weight of the policy that played a sequence in its loss; all N share the rest (MEME section 4
    B2, its eta)."""
    policy_temperature: Annotated[float, Range(above=0, at_most=1e6)] = 0.25
    """policy head: targets are taken under its policy, sharpened by this temperature (MEME section 4 D)."""
    distillation_epsilon: Annotated[float, Range(at_least=0, below=1)] = 1e-4
    """policy head: it learns the epsilon-greedy policy on the values, with this epsilon (MEME section 4 D)."""
    distillation_kl: Annotated[float | None, Range(above=0, at_most=1e9)] = 0.5
    """policy head: steps on which it is further than this from the target network's (KL divergence) are left out of its
    loss (MEME section 4 D); None leaves out none."""
    normalize_intrinsic: bool = False
    """Divide intrinsic rewards by their running standard deviation before the networks see and learn them (not in
    the paper)."""
    burn_in: Annotated[int, Range(at_least=0, at_most=10_000)] = 0
    """Steps at a sequence's start that only warm up the recurrent state (0 in Agent57, 40 in R2D2)."""

    def __post_init__(self) -> None:
        check_ranges(self, "loss")


@dataclass(frozen=True)
class BanditConfig:
    """The meta-controller's sliding-window UCB (Agent57 section 3.2)."""

    window: Annotated[int, Range(at_least=1, at_most=10**7)] = 160
    """Pulls remembered (section 4 of the paper; its table prints 90)."""
    epsilon: Share = 0.5
    """Probability of a uniformly random arm."""
    ucb_bonus: Annotated[float, Range(at_least=0, at_most=1e6)] = 1.0
    """Weight of the exploration bonus sqrt(1 / N)."""
    normalize_returns: bool = False
    """Scale returns by the window's range before the bonus is added (not in the paper)."""
    scope: Literal["lane", "shared"] = "lane"
    """lane: one bandit per lane, as in the paper; shared: one bandit pools all lanes."""
    assignment: Literal["ucb", "per_lane", "most_exploratory"] = "ucb"
    """ucb: the bandit chooses. Ablations: per_lane, lane l always plays policy l mod N (NGU); most_exploratory, every
    lane plays policy N-1."""

    def __post_init__(self) -> None:
        check_ranges(self, "bandit")


@dataclass(frozen=True)
class SequenceConfig:
    """How episodes are cut into sequences (R2D2 section 2.3; Agent57 appendix)."""

    trace_length: Annotated[int, Range(at_least=1, at_most=10_000)] = 160
    """T, transitions per sequence."""
    replay_period: Annotated[int, Range(at_least=1, at_most=10_000)] = 80
    """Steps between the starts of two sequences; the overlap is trace-length minus this."""

    def __post_init__(self) -> None:
        check_ranges(self, "sequence")
        require(
            1 <= self.replay_period <= self.trace_length, "sequence.replay-period must lie between 1 and trace-length"
        )


@dataclass(frozen=True)
class AgentConfig:
    """The algorithm: everything an actor and a learner must agree on."""

    family: PolicyFamilyConfig = field(default_factory=PolicyFamilyConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    bandit: BanditConfig = field(default_factory=BanditConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)

    def __post_init__(self) -> None:
        require(
            self.intrinsic.novelty != "none" or self.family.num_policies == 1 or self.family.beta_max == 0,
            "intrinsic.novelty none leaves nothing for the betas to weigh: add --family.beta-max 0",
        )
        overlap = self.sequence.trace_length - self.sequence.replay_period
        require(
            self.loss.burn_in <= overlap,
            f"loss.burn-in must not exceed the overlap of two sequences ({overlap}), or steps would never be learned",
        )


def config_from_dict(cls: Any, values: Any, where: str = "") -> Any:
    """The nested frozen dataclass ``cls`` out of plain dicts such as JSON gives; fields not there keep their defaults.

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
