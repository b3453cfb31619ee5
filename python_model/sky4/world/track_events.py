"""When something happens, from a track at frame rate: bounces and pulses, timed well below a frame.

F frames; signals may hold NaN where the object was not seen.
"""

import numpy as np
from numpy.typing import NDArray

from sky4.world.scene import SWELL, SWELL_DECAY

Floats = NDArray[np.float64]

BOUNCE_DEPTH = 0.10  # how far a contact must lie below the way before and after it (the world's bounces fall 0.42)
BOUNCE_SPAN = 0.27  # seconds of flight on each side that a contact is fitted to
PULSE_SHARE = 0.4  # of the world's swell: less is not taken for a pulse
PULSE_BEFORE, PULSE_AFTER = 0.26, 0.33  # seconds about a pulse that it is fitted to
APART = 0.3  # seconds: two events are at least so far apart (the world's fastest: 0.62)


def robust_slope(time: Floats, value: Floats) -> float:
    """Median of the slopes between all pairs that lie at least a quarter of the clip apart (Theil and Sen)."""
    first, second = np.triu_indices(len(time), 1)
    gap = time[second] - time[first]
    far = gap >= 0.25 * (time[-1] - time[0])
    return float(np.median((value[second] - value[first])[far] / gap[far]))


def bounce_times(y: Floats, fps: float) -> tuple[float, ...]:
    """Seconds at which a track y [F] (down is positive) turns round at the ground.

    Flight is a parabola, so with its acceleration taken off, the way in and the way out are straight; a contact is
    where the two lines meet.
    """
    seen = np.flatnonzero(np.isfinite(y))
    if len(seen) < 6:
        return ()
    filled = np.interp(np.arange(len(y)), seen, y[seen])
    bend = np.diff(filled, 2)
    acceleration = float(np.median(bend[bend > 0])) if (bend > 0).any() else 0.0  # per frame squared; contacts are few
    span = max(3, round(BOUNCE_SPAN * fps))
    found: list[tuple[float, float]] = []  # (depth, time)
    for k in range(1, len(y) - 1):
        around = filled[max(0, k - span) : k + span + 1]
        if filled[k] < around.max() or filled[k] < filled[k - 1] or filled[k] <= filled[k + 1]:
            continue
        before, after = filled[max(0, k - span) : k], filled[k + 1 : k + span + 1]
        depth = min(filled[k] - before.min(), filled[k] - after.min())
        # At the clip's edges the way in or out may be cut short: then ask for what can have been seen of it.
        if depth < BOUNCE_DEPTH * min(1.0, min(len(before), len(after)) / span):
            continue
        found.append((float(depth), _contact(filled, k, span, acceleration) / fps))
    return _apart(found)


def _contact(y: Floats, k: int, span: int, acceleration: float) -> float:
    """Frame number (fractional) of the contact near the lowest sample k: either side may own that sample."""
    best = (np.inf, float(k))
    for owner in (0, 1):  # 0: sample k lies on the way in, 1: on the way out
        ways = np.arange(max(0, k - span), k + 1 - owner), np.arange(k + 1 - owner, min(len(y), k + span + 1))
        error, lines = 0.0, []
        for way in ways:
            offset = (way - k).astype(np.float64)
            straight = y[way] - 0.5 * acceleration * offset**2
            slope, height = np.polyfit(offset, straight, 1) if len(way) >= 2 else (np.nan, np.nan)
            lines.append((slope, height))
            error += float(np.square(straight - slope * offset - height).sum()) / max(1, len(way) - 1)
        (slope_in, height_in), (slope_out, height_out) = lines
        if not np.isfinite(error) or slope_in - slope_out <= 0:
            continue
        meet = (height_out - height_in) / (slope_in - slope_out)
        # The contact lies between the last sample of the way in and the first of the way out.
        outside = max(0.0, owner * -1.0 - meet, meet - (1.0 - owner))
        best = min(best, (error * (1 + outside) + 1e-5 * outside, k + float(np.clip(meet, -1, 1))))
    return best[1]


def pulse_times(radius: Floats, fps: float) -> tuple[float, ...]:
    """Seconds at which a radius [F], in units of its usual value, jumps up and dies away as a pulse does.

    Each time on a fine grid is given the amplitude of a pulse beginning there, fitted with the level around it by
    least squares; pulses are the peaks of what such a fit explains.
    """
    seen = np.flatnonzero(np.isfinite(radius))
    if len(seen) < 6:
        return ()
    filled = np.interp(np.arange(len(radius)), seen, radius[seen])
    frame = np.arange(len(radius)) / fps
    found: list[tuple[float, float]] = []
    before, after = round(PULSE_BEFORE * fps), round(PULSE_AFTER * fps)
    for begin in np.arange(1 / fps, frame[-1] - 0.5 / fps, 1 / (12 * fps)):
        first = int(np.ceil(begin * fps - 1e-6))  # the first frame that shows this pulse
        near = slice(max(0, first - before), first + after)  # the same frames for all beginnings between two frames
        since = frame[near] - begin
        form = np.where(since < 0, 0.0, np.exp(-np.maximum(since, 0) / SWELL_DECAY))
        centred, level = form - form.mean(), filled[near] - filled[near].mean()
        power = float(centred @ centred)
        if power < 1e-6:
            continue
        amplitude = float(centred @ level) / power
        if amplitude > PULSE_SHARE * SWELL:
            # Between two frames an earlier, larger pulse fits as well as a later, smaller one: the world's own wins.
            unlike = min(1.0, abs(amplitude / SWELL - 1))
            found.append((amplitude**2 * power * (1 - 0.1 * unlike), float(begin)))
    return _apart(found)


def _apart(found: list[tuple[float, float]]) -> tuple[float, ...]:
    """The strongest (strength, time) and all others that are not too near to a stronger one, in order of time."""
    kept: list[float] = []
    for _, time in sorted(found, reverse=True):
        if all(abs(time - other) >= APART for other in kept):
            kept.append(time)
    return tuple(sorted(kept))
