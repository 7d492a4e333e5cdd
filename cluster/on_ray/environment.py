"""Environment variables that Ray reads when it is imported; called by `cluster/commands/train.py` just before that."""

from __future__ import annotations

import os
import secrets

PRIVATE = {
    # Whatever its name: every process listens on 127.0.0.1 instead of all interfaces (docs/cluster.md, Security).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A record of every call, of which the control store keeps the newest 100 000, and metrics that nobody reads.
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_timeline": "0",
    "RAY_enable_metrics_collection": "0",
    # Ray's own log files, each: 2 x 10 MB instead of 6 x 500 MB.
    "RAY_ROTATION_MAX_BYTES": "10000000",
    "RAY_ROTATION_BACKUP_COUNT": "1",
}
"""What a private Ray is started with, unless the variable is set already."""


def prepare_ray_environment(private: bool = True) -> None:
    """No telemetry, and for a private Ray token authentication unless ``RAY_AUTH_MODE`` says otherwise, on loopback.

    The token is this run's own and kept in memory only, so nobody else on this machine or network can talk to
    the run's Ray. Without it Ray would write a token file into the home folder. A cluster that is joined has a token
    of its own, or none: then ``RAY_AUTH_MODE`` and ``RAY_AUTH_TOKEN`` stay as they are.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The supervisor tells of every failure once, in a line; Ray would add the traceback of each call it cost.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if (
        private
        and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token"
        and "RAY_AUTH_TOKEN_PATH" not in os.environ
    ):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    if private:
        for name, value in PRIVATE.items():
            os.environ.setdefault(name, value)
    # Processes without a GPU of their own must not lose sight of the GPUs.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
