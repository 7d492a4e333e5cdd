"""Agent57 from the command line.

python launch.py train --env ALE/Pong-v5        train; --resume runs/NAME goes on
python launch.py eval runs/NAME --video out.mp4 play greedy episodes: scores, JSON, CSV, video
python launch.py report runs/A runs/B           compare runs in one HTML page
python launch.py export runs/NAME               the policy as safetensors and JSON, for agent57.load_policy
python launch.py suite atari5                   one run per game and seed, resumable
python launch.py doctor                         check this machine
"""

from __future__ import annotations

import errno
import importlib
import sys

from cluster.telemetry.lasting_output import lasting_output

COMMANDS = {
    "train": "cluster.commands.train_command:run",
    "eval": "cluster.commands.evaluation:run",
    "report": "cluster.commands.report.command:run",
    "export": "cluster.commands.export:run",
    "suite": "cluster.commands.suite:run",
    "doctor": "cluster.commands.doctor:run",
}
"""Each command's function, which takes its arguments and returns the exit code; imported when it is called."""
USAGE = f"usage: python launch.py {{{','.join(COMMANDS)}}} ...; 'python launch.py train --help' lists every option"


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit code: 0, 1 if training broke down, 2 for a mistake of the user's."""
    with lasting_output():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("-h", "--help", "help"):
        print(__doc__.strip() + "\n\n" + USAGE)
        return 0
    from cluster.run.errors import TrainingStopped, UserError

    try:
        if command not in COMMANDS:
            raise UserError(f"'{command}' is not a command. {USAGE}" if command else USAGE)
        module, _, function = COMMANDS[command].partition(":")
        return getattr(importlib.import_module(module), function)(rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # Wherever a path of the user's is looked at first.
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        print(f"error: {error.strerror}: {error.filename}", file=sys.stderr)
        return 2
    except TrainingStopped as error:
        print(f"error: training stopped: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
