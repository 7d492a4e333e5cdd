"""Agent57 from the command line: ``train``, ``eval``, ``doctor``.

python launch.py train --env ALE/Pong-v5
python launch.py train --resume runs/NAME
python launch.py eval runs/NAME --episodes 30
python launch.py doctor
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

USAGE = "usage: python launch.py {train,eval,doctor} ...; 'python launch.py train --help' lists every option"


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit code: 0, 1 if training broke down, 2 for a mistake of the user's."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("-h", "--help", "help"):
        print(__doc__.strip() + "\n\n" + USAGE)
        return 0
    from cluster.errors import TrainingStopped, UserError

    try:
        if command == "train":
            return _train(rest)
        if command == "eval":
            return _eval(rest)
        if command == "doctor":
            return _doctor(rest)
        raise UserError(f"'{command}' is not a command. {USAGE}" if command else USAGE)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingStopped as error:
        print(f"error: training stopped: {error}", file=sys.stderr)
        return 1


def _train(arguments: list[str]) -> int:
    from cluster.command_line import parse_train
    from cluster.commands import train

    parsed = parse_train(arguments)
    return train(parsed.config, parsed.preset, parsed.resume)


def _eval(arguments: list[str]) -> int:
    from cluster.commands import evaluate

    parser = argparse.ArgumentParser("launch.py eval", description="Play greedy episodes with a run's checkpoint.")
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument("--episodes", type=int, default=30, help="episodes to play (default 30)")
    parser.add_argument("--policy-index", type=int, default=None, help="policy to play (default: the greedy arm)")
    parser.add_argument("--lanes", type=int, default=10, help="episodes played side by side (default 10)")
    parser.add_argument("--seed", type=int, default=12345, help="seed of the environments")
    options = parser.parse_args(arguments)
    return evaluate(options.run_dir, options.episodes, options.policy_index, options.lanes, options.seed)


def _doctor(arguments: list[str]) -> int:
    from cluster.commands import doctor

    argparse.ArgumentParser("launch.py doctor", description="Check this machine.").parse_args(arguments)
    return doctor()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
