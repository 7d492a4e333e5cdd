"""Checks that a short training run really trained, from what it logged: ``check_run.py RUN_DIR [--resumed]``."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

from cluster.telemetry.metrics import read_metrics


def check(condition: bool, what: str) -> None:
    print(("ok    " if condition else "FAIL  ") + what)
    if not condition:
        sys.exit(1)


def main() -> None:
    run_dir = Path(sys.argv[1])
    metrics = read_metrics(run_dir)
    for tag, series in metrics.items():
        if tag.startswith("learner/"):
            check(all(map(math.isfinite, series.values)), f"{tag} is finite everywhere (last {series.values[-1]:.4g})")
    frames = metrics["rate/learner_updates"].env_frames
    check(all(b >= a for a, b in itertools.pairwise(frames)), "env frames never go back")
    updates = metrics["rate/learner_updates"].values
    check(all(b >= a for a, b in itertools.pairwise(updates)), "learner updates never go back")
    if "--resumed" in sys.argv:
        events = len(list(run_dir.glob("events.out.tfevents.*")))
        check(events == 2, "the resumed session wrote its own TensorBoard file")
        minutes = metrics["rate/learner_updates"].minutes
        check(minutes[-1] > 1.7, f"the time axis went on over the resume (to {minutes[-1]:.1f} min)")
        return
    num_actions = 6
    accuracy = metrics["learner/embedding_accuracy"].values
    late = sum(accuracy[-3:]) / 3
    check(late > 1.2 / num_actions, f"embedding accuracy {late:.3f} beats chance {1 / num_actions:.3f}")
    error = metrics["learner/rnd_error"].values
    check(error[-1] < 0.7 * error[0], f"RND error fell ({error[0]:.4g} to {error[-1]:.4g})")
    priority = metrics["replay/updated_priority"].values
    check(max(priority) > 1.05 * min(priority) > 0, f"priorities moved ({min(priority):.4g} to {max(priority):.4g})")
    shares = [series.values[-1] for tag, series in metrics.items() if tag.startswith("bandit_share/")]
    check(sum(share > 0 for share in shares) >= 2, f"several arms were played (shares {shares})")
    check(metrics["intrinsic/alpha_max"].values.max() > 1.5, "life-long novelty is alive (alpha exceeds 1.5)")
    ratio, wanted = metrics["replay/ratio"].values[-1], json.loads((run_dir / "config.json").read_text())["replay"]
    check(abs(ratio / wanted["replay_ratio"] - 1) < 0.3, f"replay ratio {ratio:.2f} of {wanted['replay_ratio']}")


if __name__ == "__main__":
    main()
