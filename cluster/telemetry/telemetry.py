"""Collects what the processes report and shows it: TensorBoard, ``metrics.jsonl``, the status line.

Owned by the supervisor, which calls `rolled_out`, `updated` and `evaluated` for each reply and `tick` in its
loop; it asks nobody. The x-axis is always environment frames of the whole run. docs/metrics.md lists every tag.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments.atari.scores import capped_human_normalised_score, game_of, human_normalised_score
from actors.environments.contract import frames_per_step
from actors.rollout import Episode
from agent57.family import PolicyFamily
from cluster.plan.topology import Topology
from cluster.run.config import TrainConfig
from cluster.run.messages import EvaluationReply, RolloutReply, UpdateReply
from cluster.telemetry.arm_history import ArmHistory
from cluster.telemetry.console import StatusFields, StatusLine, format_count
from cluster.telemetry.health import HealthWatch
from cluster.telemetry.lasting_output import output_lost
from cluster.telemetry.mean_accumulator import MeanAccumulator
from cluster.telemetry.metrics import MetricLog, plain
from cluster.telemetry.score import SCORE_TAG, Score
from cluster.telemetry.snapshot import Snapshot
from cluster.telemetry.tensorboard.layout import COMPARED, custom_scalars, hyperparameters
from cluster.telemetry.tensorboard.pictures import animation, heat_map, table_of_numbers

EPSILON_BANDS = (("high", 0.1, 1.0), ("middle", 0.01, 0.1), ("low", 0.0, 0.01))
"""Lanes by epsilon: mostly random, mixed, and nearly greedy ones; (name, above, up to and including)."""
RECENT_EPISODES = 100
HISTOGRAM_LOGS = 6
"""Histograms are written with every so-manieth log point, pictures with some of those."""
PICTURE_GROWTH = 1.05
"""A picture is drawn anew once the run has grown by this factor: some 200 in a run of any length."""
TABLE_EPISODES = 2000
"""Newest episodes that the table of returns by epsilon and policy averages."""
CLIP_FRAMES_PER_SECOND = 15.0


class Telemetry:
    """Means since the last log point, recent returns, rates; and the three places that they are shown in."""

    def __init__(self, config: TrainConfig, topology: Topology | None, run_dir: Path) -> None:
        self.config, self._run_dir = config, run_dir
        self._family = PolicyFamily.of(config.family)
        self._means = MeanAccumulator()
        self._log: MetricLog | None = None
        self._status = StatusLine()
        self._began: float | None = None
        self._logged_at = time.monotonic()
        self._at_last_log = (0, 0)
        self._rates = (0.0, 0.0)
        self._log_points = 0
        self._unwritten = 0
        self._game = game_of(config.env)
        self._health = HealthWatch(config, topology.planned_bytes if topology is not None else {})
        self._arm_history = ArmHistory(config.family.num_policies)
        self._frames_per_step = frames_per_step(config.env, config.environment)
        self._env_steps = 0
        self._pictured_at = self._filmed_at = -1
        # (epsilon band, policy, return) of the newest episodes.
        self._outcomes: deque[tuple[int, int, float]] = deque(maxlen=TABLE_EPISODES)
        self._returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        self._arms: list[int] = []
        self._intrinsic: list[float] = []
        self._intrinsic_rewards: list[np.ndarray] = []
        self._replay: dict[str, float] = {}
        self._resident: dict[str, int] = {}
        self._counters: dict[str, int] = defaultdict(int)
        self._round: list[Episode] = []
        self._told_of_lost_output = False
        self.warnings = 0
        # When the weights of the round going on were taken: (environment frames, minutes).
        self._round_began = (0, 0.0)
        self.score: Score | None = None

    @property
    def session_minutes(self) -> float:
        """Minutes that this session of the run has trained."""
        return 0.0 if self._began is None else (time.monotonic() - self._began) / 60

    def open(self, resumed_at: int | None, round_goes_on: bool = False) -> None:
        """Begin logging; ``resumed_at`` are the frames at which an earlier session left off.

        ``round_goes_on``: the round of evaluation of that moment is played to its end, and scored, by this session.
        """
        again = (SCORE_TAG, self._round_began[0]) if round_goes_on else None
        self._log = MetricLog(self._run_dir, resumed_at, again)
        # A checkpoint holds no wall-clock time, or two equal runs would have two.
        self._round_began = (self._round_began[0], self._log.minutes)
        self._log.layout(custom_scalars())
        self._log.hyperparameters(hyperparameters(self.config), COMPARED)
        self._logged_at = time.monotonic()
        if resumed_at is not None:
            self.note(f"resumed at {resumed_at:,} environment frames", resumed_at)

    def start_clock(self) -> None:
        """Count the session's minutes from now on, when the first process is ready."""
        if self._began is None:
            self._began = self._logged_at = time.monotonic()

    def describe(self, title: str, markdown: str) -> None:
        """Put a text (config, plan, versions) into TensorBoard."""
        assert self._log is not None
        self._log.text(title, markdown, 0)

    def note(self, message: str, env_frames: int) -> None:
        """Say something once: on the console and in TensorBoard's texts."""
        self._status.note(message)
        if self._log is not None:
            self._log.text("run/events", plain(message), env_frames)

    def warn(self, message: str, env_frames: int) -> None:
        """Say that something is not well; whoever calls says it once."""
        self.warnings += 1
        self._status.note(f"warning: {message}")
        if self._log is not None:
            self._log.text("run/warnings", plain(message), env_frames)

    # What the processes report

    def rolled_out(self, worker: int, reply: RolloutReply) -> None:
        for name, value in reply.metrics.items():
            self._means.add(name, value, reply.env_steps)
        self._counters["lost_sequences"] += reply.lost_sequences
        self._count_faults(reply.faults)
        self._resident[f"worker_{worker}"] = reply.resident_bytes
        self._intrinsic_rewards.append(reply.intrinsic_rewards)
        if reply.replay_stats is not None:
            self._replay = reply.replay_stats
        self._env_steps += reply.env_steps
        for episode in reply.episodes:
            self._count_episode(episode)

    def _count_faults(self, faults: list[str]) -> None:
        """Count what environments did wrong, and tell of the first."""
        if faults and not self._counters["environment_faults"]:
            text = f"{faults[0]}: that episode is left out, and so are others like it (health/environment_faults)"
            self.warn(text, self._env_steps * self._frames_per_step)
        self._counters["environment_faults"] += len(faults)

    def _count_episode(self, episode: Episode) -> None:
        if not math.isfinite(episode.extrinsic_return):
            return
        self._counters["episodes"] += 1
        self._returns.append(episode.extrinsic_return)
        self._arms.append(episode.policy_index)
        self._arm_history.add(episode.policy_index, self._env_steps)
        self._intrinsic.append(episode.intrinsic_return)
        self._means.add("return/all", episode.extrinsic_return)
        self._means.add("return/length", episode.length)
        self._means.add("return/intrinsic", episode.intrinsic_return)
        if episode.new_states is not None:
            self._means.add("return/new_states", episode.new_states)
        self._means.add(f"return_per_arm/{episode.policy_index:02d}", episode.extrinsic_return)
        for band, (name, above, up_to) in enumerate(EPSILON_BANDS):
            if above < episode.epsilon <= up_to:
                self._means.add(f"return_per_epsilon/{name}", episode.extrinsic_return)
                self._outcomes.append((band, episode.policy_index, episode.extrinsic_return))

    def lagged(self, updates: int, env_steps: int) -> None:
        """``env_steps`` were acted with weights that were fetched ``updates`` before the worker's next ones."""
        self._means.add("actor/policy_lag_updates", updates, env_steps)

    def choices_played(self, lags: list[int]) -> None:
        """Episodes that came of a choice; ``lags``: other episodes of their lanes between choice and play."""
        for lag in lags:
            self._means.add("bandit/choice_lag", lag)

    def updated(self, reply: UpdateReply) -> None:
        for name, value in reply.metrics.items():
            self._means.add(name, value, reply.updates)
        self._resident["learner"] = reply.resident_bytes

    def begin_round(self, env_frames: int) -> None:
        """A round of evaluation begins: its score is that of the weights of this moment."""
        assert self._log is not None
        # One that was broken off leaves nothing.
        self._round = []
        self._round_began = (env_frames, self._log.minutes)

    def evaluated(self, reply: EvaluationReply) -> None:
        """At the end of a round: the score is that of the arm that was chosen before it."""
        self._resident["evaluator"] = reply.resident_bytes
        self._round += reply.episodes
        self._count_faults(reply.faults)
        if not reply.round_over:
            return
        finished, self._round = self._round, []
        self.score = Score([one.extrinsic_return for one in finished if one.policy_index == reply.scored_arm])
        values = {
            SCORE_TAG: self.score.mean,
            "evaluation/return_episodes": float(self.score.episodes),
            "evaluation/return_all_arms": float(np.mean([episode.extrinsic_return for episode in finished])),
            "evaluation/episode_length": float(np.mean([episode.length for episode in finished])),
            "evaluation/greedy_arm": float(reply.scored_arm),
        }
        if self.score.episodes > 1:
            values["evaluation/return_stderr"] = self.score.standard_error
        visited = [episode.new_states for episode in finished if episode.new_states is not None]
        if visited:
            values["evaluation/new_states"] = float(np.mean(visited))
        if self._game is not None:
            values["evaluation/human_normalised"] = human_normalised_score(self._game, self.score.mean)
            values["evaluation/human_normalised_capped"] = capped_human_normalised_score(self._game, self.score.mean)
        assert self._log is not None
        env_frames, minutes = self._round_began
        self._log.scalars(values, env_frames, minutes)
        if reply.clip is not None and reply.clip.dtype == np.uint8 and _grown(env_frames, self._filmed_at):
            self._filmed_at = env_frames
            self._log.animation("evaluation/episode", *animation(reply.clip, CLIP_FRAMES_PER_SECOND), env_frames)

    # Showing

    def tick(self, snapshot: Callable[[], Snapshot], priorities: Callable[[], np.ndarray | None]) -> None:
        """Refresh the status line; write a log point if one is due. Both are asked only for what is shown now.

        ``priorities``: those of all stored sequences, if they are known.
        """
        elapsed = time.monotonic() - self._logged_at
        if elapsed >= self.config.log_seconds:
            now = snapshot()
            counts = (now.env_frames, now.learner_updates)
            if self._log_points or self._at_last_log != (0, 0):
                frames, updates = self._at_last_log
                self._rates = ((counts[0] - frames) / elapsed, (counts[1] - updates) / elapsed)
            self._at_last_log, self._logged_at = counts, time.monotonic()
            self._write(now, priorities)
        # Gathered only when it is shown: going through hundreds of bandits at every tick would fill half a core.
        if self._status.due:
            self._status.update(self._fields(snapshot()))

    def _write(self, now: Snapshot, priorities: Callable[[], np.ndarray | None]) -> None:
        assert self._log is not None
        frames = now.env_frames
        if output_lost() and not self._told_of_lost_output:
            self._told_of_lost_output = True
            self._log.text("run/events", "nobody reads the console any more; the run goes on", frames)
        self._resident |= now.resident_bytes
        shares = now.arm_pulls / max(now.arm_pulls.sum(), 1)
        values = self._means.drain() | {
            "rate/env_frames_per_second": self._rates[0],
            "rate/updates_per_second": self._rates[1],
            "rate/learner_updates": float(now.learner_updates),
            "replay/ratio": now.replay_ratio or 0.0,
            "health/restarts": float(now.restarts),
            "health/lost_sequences": float(self._counters["lost_sequences"]),
            "health/environment_faults": float(self._counters["environment_faults"]),
            "health/refused_returns": float(now.refused_returns),
            "health/episodes": float(self._counters["episodes"]),
            "bandit/favourite_arm": float(now.favourite_arm),
        }
        values |= {f"bandit_share/{arm:02d}": float(share) for arm, share in enumerate(shares)}
        values |= {f"replay/{name}": value for name, value in self._replay.items() if name != "resident_bytes"}
        if "resident_bytes" in self._replay:
            self._resident["replay"] = int(self._replay["resident_bytes"])
        values |= {f"memory_mb/{name}": size / 1e6 for name, size in self._resident.items()}
        self._log.scalars(values, frames)
        for warning in self._health.check(values, now.learner_updates, self._log.nonfinite):
            self.warn(warning, frames)
        for warning in self._health.check_room([self._run_dir, *now.temporary_folders]):
            self.warn(warning, frames)
        if self._log_points % HISTOGRAM_LOGS == 0:
            self._write_histograms(priorities(), frames)
            if _grown(frames, self._pictured_at):
                self._write_pictures(frames)
        self._tell_of_disk(frames)
        self._log_points += 1

    def _tell_of_disk(self, frames: int) -> None:
        """Say once when the log has no room any more, and once when it has again."""
        assert self._log is not None
        lost, why = self._log.lost()
        before, self._unwritten = self._unwritten, self._unwritten + lost if lost else 0
        if lost and not before:
            self.note(f"the log cannot be written ({why}): the run goes on without it", frames)
        elif before and not lost:
            self.note(f"the log is written again; {before} of its entries are missing", frames)

    def _write_histograms(self, priorities: np.ndarray | None, frames: int) -> None:
        assert self._log is not None
        samples: dict[str, Any] = {
            "bandit/arms": self._arms,
            "return/intrinsic": self._intrinsic,
            "intrinsic/reward_samples": np.concatenate([np.zeros(0), *self._intrinsic_rewards]),
            "replay/priorities": priorities,
        }
        for tag, values in samples.items():
            if values is not None and len(values):
                self._log.histogram(tag, np.asarray(values), frames)
        self._arms, self._intrinsic, self._intrinsic_rewards = [], [], []

    def _write_pictures(self, frames: int) -> None:
        """Which policies were played when, and what they earned with how much randomness."""
        assert self._log is not None
        self._pictured_at = frames
        shares = self._arm_history.shares()
        names = [
            f"{arm}: {beta:.3f}, {gamma:.4f}"
            for arm, (beta, gamma) in enumerate(zip(self._family.betas, self._family.discounts, strict=True))
        ]
        title = "share of episodes by policy: beta, gamma"
        last = f"{format_count(shares.shape[1] * self._arm_history.width * self._frames_per_step)} frames"
        self._log.image("bandit/heat_map", heat_map(shares, names, title, "0", last, 0.0, 1.0), frames)
        if not self._outcomes:
            return
        bands, arms, returns = (np.array(column) for column in zip(*self._outcomes, strict=True))
        cells = (len(EPSILON_BANDS), self.config.family.num_policies)
        counts, totals = np.zeros(cells), np.zeros(cells)
        np.add.at(counts, (bands, arms), 1)
        np.add.at(totals, (bands, arms), returns)
        table = table_of_numbers(
            np.where(counts > 0, totals / np.maximum(counts, 1), np.nan),
            [f"epsilon to {up_to:g}" for _, _, up_to in EPSILON_BANDS],
            [str(arm) for arm in range(cells[1])],
            f"mean return of the newest {len(self._outcomes)} episodes, by policy",
        )
        self._log.image("return_per_epsilon/by_policy", table, frames)

    def _fields(self, now: Snapshot) -> StatusFields:
        arm = now.favourite_arm if now.arm_pulls.any() else None
        return StatusFields(
            elapsed_seconds=60 * self.session_minutes,
            env_frames=now.env_frames,
            env_frames_wanted=self.config.max_env_frames or None,
            seconds_wanted=60 * self.config.max_minutes or None,
            env_frames_per_second=self._rates[0],
            learner_updates=now.learner_updates,
            updates_per_second=self._rates[1],
            replay_steps=int(self._replay.get("steps", 0)),
            replay_bytes=int(self._replay.get("bytes", 0)),
            replay_limit_bytes=int(self.config.replay.max_gb * 1e9),
            replay_ratio=now.replay_ratio,
            replay_ratio_wanted=self.config.replay.replay_ratio,
            score=self.score,
            training_return=float(np.mean(self._returns)) if self._returns else None,
            arm=arm,
            arm_beta=None if arm is None else float(self._family.betas[arm]),
            arm_gamma=None if arm is None else float(self._family.discounts[arm]),
            restarts=now.restarts,
        )

    def close(self, now: Snapshot, priorities: np.ndarray | None) -> None:
        """Write what is left and give the terminal back."""
        if self._log is not None:
            self._write(now, lambda: priorities)
            if now.env_frames > self._pictured_at:
                self._write_pictures(now.env_frames)
            self._log.close()
            self._status.update(self._fields(now))
        self._status.close()

    def state_dict(self) -> dict[str, Any]:
        return {
            "score": None if self.score is None else self.score.returns,
            "round_began": self._round_began[0],
            "env_steps": self._env_steps,
            "arm_history": self._arm_history.state_dict(),
            "outcomes": [list(outcome) for outcome in self._outcomes],
            "returns": list(self._returns),
            "counters": dict(self._counters),
            "round": [vars(episode) for episode in self._round],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.score = None if state["score"] is None else Score(state["score"])
        self._round_began = (state["round_began"], 0.0)
        if "arm_history" in state:
            self._env_steps = state["env_steps"]
            self._arm_history.load_state_dict(state["arm_history"])
        self._outcomes.extend((int(band), int(arm), value) for band, arm, value in state.get("outcomes", []))
        self._returns.extend(state["returns"])
        self._counters.update(state["counters"])
        self._round = [Episode(**fields) for fields in state["round"]]


def _grown(env_frames: int, since: int) -> bool:
    """Whether the run is so much longer than ``since`` (-1: nothing drawn yet) that a picture is worth its bytes."""
    return env_frames > PICTURE_GROWTH * since
