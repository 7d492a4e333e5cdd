"""An episode as a video: each picture beside what the agent knew and chose at that moment.

Pictures and numbers in, an H.264 file out (PyAV brings its own encoder). `evaluation.py` feeds it step by step.
"""

from __future__ import annotations

import fractions
from collections import deque
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from actors.lanes import LaneStep
from agent57.config import AgentConfig
from agent57.family import PolicyFamily
from agent57.novelty import NOVELTIES
from agent57.structures import EXTRINSIC, INTRINSIC
from cluster.run.errors import UserError

PICTURE_HEIGHT = 480
PANEL_WIDTH = 330
CURVE_STEPS = 120
_BACKGROUND, _INK, _FAINT = (24, 26, 32), (235, 235, 235), (150, 155, 165)
_EXTRINSIC, _INTRINSIC = (86, 180, 233), (230, 159, 0)


class VideoFile:
    """An MP4 that grows frame by frame; it appears under its name when it is closed whole.

    The first frame decides the size, rounded down to even numbers, which the format asks for.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self.path, self.frames = path, 0
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        try:
            self._container = av.open(str(self._part), "w", format="mp4")
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): name another --video.") from None
        rate = fractions.Fraction(frames_per_second).limit_denominator(1000)
        self._stream: Any = self._container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "fast"})
        self._stream.pix_fmt = "yuv420p"

    def add(self, picture: np.ndarray) -> None:
        """Append a frame, uint8 RGB [H, W, 3], of the first one's size."""
        height, width = (side - side % 2 for side in picture.shape[:2])
        if self.frames == 0:
            self._stream.height, self._stream.width = height, width
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Finish the file and put it in place."""
        self._container.mux(self._stream.encode())
        self._container.close()
        self._part.replace(self.path)

    def discard(self) -> None:
        """Give up: nothing stays behind."""
        self._container.close()
        self._part.unlink(missing_ok=True)


class EpisodePanel:
    """Draws the frames of one episode: the picture, and beside it the arm, rewards and values of the step."""

    def __init__(self, env_id: str, agent: AgentConfig, action_names: list[str]) -> None:
        self._title, self._agent, self._action_names = env_id, agent, action_names
        self._family = PolicyFamily.of(agent.family)
        self._parts = NOVELTIES[agent.intrinsic.novelty].parts
        self._steps, self._return = 0, 0.0
        self._intrinsic: deque[float] = deque(maxlen=CURVE_STEPS)
        self._value: deque[float] = deque(maxlen=CURVE_STEPS)

    def draw(self, step: LaneStep, picture: np.ndarray) -> np.ndarray:
        """The frame of the first lane's ``step``, whose observation looks like ``picture`` (height 0: draw it)."""
        if step.starts[0]:
            self._steps, self._return = 0, 0.0
        else:
            self._steps += 1
            self._return += float(step.extrinsic_rewards[0])
        action = int(step.actions[0])
        self._intrinsic.append(float(step.intrinsic_rewards[0]))
        self._value.append(float(step.q[0, EXTRINSIC, action]))
        game = _fitted(picture if len(picture) else picture_of(step.observations[0]))
        frame = Image.new("RGB", (game.width + PANEL_WIDTH, PICTURE_HEIGHT), _BACKGROUND)
        frame.paste(game, (0, 0))
        self._write(ImageDraw.Draw(frame), game.width + 16, step, action)
        return np.asarray(frame)

    def lines(self, step: LaneStep, action: int) -> list[tuple[str, str]]:
        """What the panel says of a step, as (name, value)."""
        arm = int(step.policy_index[0])
        greedy = float(step.behaviour_probs[0]) > 1 / len(self._action_names)
        choice = "" if greedy else " (explored)"
        q = step.q[0, :, action]
        return [
            ("step", f"{self._steps}"),
            ("return", f"{self._return:g}"),
            ("policy", f"{arm} of {self._agent.family.num_policies}"),
            ("beta", f"{self._family.betas[arm]:.4f}"),
            ("gamma", f"{self._family.discounts[arm]:.5f}"),
            ("action", ("end" if step.ends[0] else self._action_names[action] + choice)),
            ("r^e", f"{step.extrinsic_rewards[0]:g}"),
            ("r^i", f"{step.intrinsic_rewards[0]:.4f}"),
            *((f"  {part.label}", f"{step.parts[part.name][0]:.4f}") for part in self._parts if part.label),
            ("Q^e(a)", f"{q[EXTRINSIC]:.4f}"),
            ("Q^i(a)", f"{q[INTRINSIC]:.4f}"),
        ]

    def _write(self, draw: ImageDraw.ImageDraw, left: int, step: LaneStep, action: int) -> None:
        draw.text((left, 12), self._title, _INK, _TITLE_FONT)
        top = 44
        for name, value in self.lines(step, action):
            draw.text((left, top), name, _FAINT, _TEXT_FONT)
            colour = {"r^i": _INTRINSIC, "Q^e(a)": _EXTRINSIC}.get(name, _INK)
            draw.text((left + 104, top), value, colour, _TEXT_FONT)
            top += 23
        for values, colour, name in (
            (self._value, _EXTRINSIC, f"Q^e, last {CURVE_STEPS} steps"),
            (self._intrinsic, _INTRINSIC, f"r^i, last {CURVE_STEPS} steps"),
        ):
            _curve(draw, (left, top + 6, PANEL_WIDTH - 32, 46), values, colour, name)
            top += 74


def picture_of(observation: np.ndarray) -> np.ndarray:
    """An observation [*obs] as a picture, for environments that cannot draw themselves; vectors become bars."""
    if observation.ndim == 3:
        pixels = observation if observation.shape[0] == 3 else np.repeat(observation[:1], 3, 0)
        if pixels.dtype != np.uint8:
            low, high = float(pixels.min()), float(pixels.max())
            pixels = (255 * (pixels - low) / max(high - low, 1e-9)).astype(np.uint8)
        return np.moveaxis(pixels, 0, -1)
    picture = np.full((240, 240, 3), 40, np.uint8)
    scale = max(1.0, float(np.abs(observation).max(initial=0.0)))
    edges = np.linspace(0, 240, len(observation) + 1).astype(int)
    for value, left, right in zip(observation, edges, edges[1:], strict=False):
        top, bottom = sorted((120, 120 - round(110 * float(value) / scale)))
        picture[top : bottom + 1, left : max(right - 1, left + 1)] = _EXTRINSIC
    return picture


def _fitted(picture: np.ndarray) -> Image.Image:
    """``picture`` scaled to the frame's height: by whole pixels where it is small."""
    height, width = picture.shape[:2]
    size = (max(2, round(width * PICTURE_HEIGHT / height)), PICTURE_HEIGHT)
    method = Image.Resampling.NEAREST if height * 2 < PICTURE_HEIGHT else Image.Resampling.BILINEAR
    return Image.fromarray(np.asarray(picture, np.uint8)).resize(size, method)


def _curve(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], values: deque[float], colour: Any, name: str
) -> None:
    left, top, width, height = box
    draw.text((left, top), name, _FAINT, _SMALL_FONT)
    top += 18
    draw.rectangle((left, top, left + width, top + height), outline=(60, 63, 72))
    low, high = min(values), max(values)
    points = [
        (left + width * i / (CURVE_STEPS - 1), top + height - 3 - (height - 6) * (value - low) / max(high - low, 1e-9))
        for i, value in enumerate(values)
    ]
    if len(points) > 1:
        draw.line(points, colour, 2)


_TITLE_FONT, _TEXT_FONT, _SMALL_FONT = (ImageFont.load_default(size) for size in (19, 16, 12))
