"""Scenes and takes to pixels: signed distances with analytic anti-aliasing, in torch, on any device.

The camera and the effects that move points are undone on the coordinates before anything is drawn, so that nothing is
resampled. B takes, F frames, H = W = size.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from sky4.shots.mixing import mixed
from sky4.world.backdrops import paint_backdrop
from sky4.world.figures import paint_talker, paint_thing, thing_coverage
from sky4.world.finish import bent, lit, overlaid, progress, styled, tinted, weathered
from sky4.world.scene import Scene
from sky4.world.stories import Story
from sky4.world.take import Take


def render_video(
    takes: Sequence[Scene | Take | Story],
    frames: int,
    fps: Fraction | float,
    size: int,
    start: Sequence[float] | float = 0.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Pixels [B, 3, F, size, size] in -1..1, frame f of take b showing the time start[b] + f / fps."""
    starts = [start] * len(takes) if isinstance(start, (int, float)) else list(start)
    steps = torch.arange(frames, device=device, dtype=torch.float32) / float(fps)
    pixels = torch.empty(len(takes), 3, frames, size, size, device=device)
    for take, begin, out in zip(takes, starts, pixels, strict=True):
        out.copy_(_pictures(take, steps + begin, size).permute(3, 0, 1, 2))
    return pixels.mul_(2).sub_(1)


def render_coverage(take: Take, thing: int, time: Tensor, size: int) -> Tensor:
    """How much of each pixel the take's thing number `thing` covers, 0 to 1: [F, size, size] for `time` [F]."""
    x, y = _coordinates(len(time), size, time.device)
    return thing_coverage(take.things[thing], time, *take.viewed(time[:, None, None], x, y), take.framing.width / size)


def _coordinates(frames: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
    x, y = torch.broadcast_tensors(axis[None, None, :], axis[None, :, None])
    return x.expand(frames, size, size), y.expand(frames, size, size)


def _pictures(shown: Scene | Take | Story, time: Tensor, size: int) -> Tensor:
    """[F, size, size, 3] in 0..1."""
    if isinstance(shown, Story):
        return _story(shown, time, size)
    return _frames(Take.of(shown) if isinstance(shown, Scene) else shown, time, size)


def _story(story: Story, time: Tensor, size: int) -> Tensor:
    """Each shot is drawn where it is seen alone, and both of a transition where they mix."""
    pictures = torch.empty(len(time), size, size, 3, device=time.device)
    places = [story.place(moment) for moment in time.tolist()]
    for number, take in enumerate(story.takes):
        alone = [frame for frame, place in enumerate(places) if place == (number, 0.0)]
        if alone:
            pictures[alone] = _frames(take, time[alone], size)
    for number, join in enumerate(story.joins):
        mixing = [frame for frame, (shot, share) in enumerate(places) if shot == number and share > 0]
        if mixing:
            before, after = (_frames(take, time[mixing], size) for take in story.takes[number : number + 2])
            for frame, first, second in zip(mixing, before, after, strict=True):
                pictures[frame] = mixed(join.optical, first, second, places[frame][1])
    return pictures


def _frames(take: Take, time: Tensor, size: int) -> Tensor:
    """[F, size, size, 3] in 0..1."""
    x, y = _coordinates(len(time), size, time.device)
    picture = _drawn(take, time, x, y, take.framing.width / size)
    if take.effect != "none":  # the effect plays on the take's first frame, which stands still
        picture = tinted(take.effect, progress(time), picture, x, y)
    picture = lit(take.light, weathered(take.weather, picture, time, x, y))
    picture = styled(take.style, picture)
    return picture if take.overlay is None else overlaid(take.overlay, picture)


def _drawn(take: Take, time: Tensor, x: Tensor, y: Tensor, edge: float) -> Tensor:
    if take.effect != "none":
        x, y = bent(take.effect, progress(time), x, y)
        time = torch.zeros_like(time)
        take = replace(take, camera="static")
    x, y = take.viewed(time[:, None, None], x, y)
    picture = paint_backdrop(take.backdrop, x, y, edge, ground=take.bounces)
    for thing in take.things:
        picture = paint_thing(picture, thing, time, x, y, edge, take.style == "outline")
    return picture if take.talker is None else paint_talker(picture, take.talker, time, x, y, edge)
