"""The scale benchmark in a short form, and the arithmetic of its extrapolation."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.process_cpu import children_named, cpu_seconds, private_bytes
from benchmarks.recorded_traffic import RecordedTraffic, record_traffic
from benchmarks.scale import (
    LANE_STEPS_PER_SECOND,
    Stage,
    extrapolate,
    main,
    run_stage,
    saturation,
    stage_config,
    stage_figures,
)

TRAFFIC = RecordedTraffic([bytes(20_000)], np.ones(1, np.float32), 1e-3, {}, {}, {}, weight_count=10_000_000)


def made_up_stage(lanes: int = 256, carried: float = 1.0, **cores: float) -> Stage:
    """Ten seconds in which every worker of 16 lanes was idle for 2 ms at a time."""
    steps = int(carried * lanes * LANE_STEPS_PER_SECOND * 10)
    idle = (np.arange(300.0), np.full(300, 0.002))
    return Stage(
        lanes=lanes,
        lanes_per_worker=16,
        seconds=10.0,
        env_steps=steps,
        requests=steps // 1600,
        publishes=10,
        sequences=steps // 80,
        updates=25,
        cores={"supervisor": 0.1, **{name.replace("_", " "): value for name, value in cores.items()}},
        grown_bytes={"supervisor": 0},
        timings={"idle": idle, "insert": idle, "sample": idle, "pull": idle},
        replies_at_once=np.ones(100),
        lags=np.full(100, 5),
    )


@pytest.mark.ray
def test_a_stage_carries_real_traffic_with_little_supervision() -> None:
    """256 lanes in 32 workers, for a few seconds, on two shards: all is delivered, and the supervisor is lazy.

    How much is carried depends on what else the machine does; what it costs and how it adds up does not.
    """
    config = stage_config(lanes=256, lanes_per_worker=8, shards=2)
    traffic = record_traffic(config)
    assert len(traffic.blobs) >= 16
    assert 8_000 < traffic.blob_bytes < 80_000
    assert traffic.weight_count > 10_000_000
    stage = run_stage(config, traffic, seconds=4.0, hosts=2)
    assert 0.05 < stage.carried < 1.3
    # Both are read from a run that goes on meanwhile.
    assert stage.env_steps == pytest.approx(800 * stage.requests, rel=0.3, abs=800 * 40)
    assert stage.sequences == pytest.approx(stage.env_steps / 80, rel=0.3, abs=400)
    assert len(stage.timings["idle"][1]) == pytest.approx(stage.requests, rel=0.3, abs=40)
    assert stage.cores["supervisor"] < 0.5
    assert stage.cores["supervisor"] * stage.seconds / stage.requests < 0.025
    assert stage.replies_at_once.max() <= stage.workers + 1
    for kind in ("idle", "insert", "sample"):
        assert len(stage.timings[kind][1]) > 0, kind
    names = {figure.name.split(": ")[1] for figure in stage_figures(stage, traffic, config)}
    processes = {f"{name}, processor time" for name in ("replay 0", "replay 1", "weights 0", "learner 0", "raylet")}
    assert {"acting", "supervisor's processor time", *processes} <= names


def test_the_first_bottleneck_is_the_part_that_fills_first() -> None:
    config = stage_config(256, 16, 1)

    def first(stage: Stage, gpu: float = 1e9, network: float = 1e9) -> tuple[str, float]:
        figure = extrapolate(stage, TRAFFIC, config, gpu, network)[0]
        return figure.name, figure.value

    assert first(made_up_stage()) == ("first bottleneck, supervisor: one core", pytest.approx(2560))
    assert first(made_up_stage(replay_1=0.5)) == ("first bottleneck, replay 1: one core", pytest.approx(512))
    assert first(made_up_stage(host_0=0.9))[0] == "first bottleneck, supervisor: one core"
    # 5 updates/s of 64 x 160 transitions at 0.8 per step and 125 steps/s per lane.
    name, lanes = first(made_up_stage(), gpu=5.0)
    assert name.startswith("first bottleneck, GPU learner")
    assert lanes == pytest.approx(5 * 64 * 160 / 0.8 / 125)
    # At 512 lanes: 2 vectors of 40 MB a second to 2 nodes, and 800 sequences of 20 KB a second.
    name, lanes = first(made_up_stage(), network=176.0)
    assert name.startswith("first bottleneck, network")
    assert lanes == pytest.approx(512)


def test_a_queue_that_grows_shows() -> None:
    stage = made_up_stage()
    growing = (np.arange(300.0), np.linspace(0.001, 0.1, 300))
    stage = dataclasses.replace(stage, timings={**stage.timings, "idle": growing})
    rows = {figure.name: figure for figure in stage_figures(stage, TRAFFIC, stage_config(256, 16, 1))}
    row = rows["256 lanes / 16: that idle time, last third against first"]
    assert row.value == pytest.approx(0.0835 / 0.0175, rel=0.05)


def test_saturation_counts_only_what_was_carried() -> None:
    stages = [made_up_stage(256), made_up_stage(512, 0.95), made_up_stage(1024, 0.6)]
    (figure,) = saturation(stages)
    assert (figure.value, figure.limit) == (512, 1024)


def test_lanes_must_make_whole_workers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--lanes", "100", "--lanes-per-worker", "16"])
    assert stopped.value.code == 2
    assert "100 lanes do not make whole workers of 16" in capsys.readouterr().err


def test_processor_time_is_that_of_the_process_alone() -> None:
    code = "import time\nwhile time.process_time() < 1.0: pass\nprint('spun', flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as spinning:
        try:
            assert spinning.stdout is not None
            assert spinning.stdout.readline() == "spun\n"
            spun = cpu_seconds(spinning.pid)
            assert 0.9 < spun < 1.6
            time.sleep(0.2)
            assert cpu_seconds(spinning.pid) < spun + 0.1
            assert private_bytes(spinning.pid) > 1e6
            name = Path(f"/proc/{spinning.pid}/comm").read_text().strip()
            assert spinning.pid in children_named(os.getpid(), name)
        finally:
            spinning.kill()
    with pytest.raises(ProcessLookupError):
        cpu_seconds(spinning.pid)
