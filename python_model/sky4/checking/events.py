"""Whether what is seen and what is heard happen together, as far as the world's detectors know the events.

They know one thing in front of a background, that bounces or pulses, and sounds that begin at once. Of anything else
nothing is claimed. F frames, H x W pixels, S samples.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sky4.checking.facts import Sync

SIDE = 96  # pixels: the widest that a frame is looked at for events
LONGEST = 600  # frames: later events are not looked for, so that memory stays bounded
SHORTEST = 8  # frames
SURE = 0.8  # likeness of the thing to one that the detectors know; real footage stays well below


def compare(frames: NDArray[np.uint8], fps: Fraction, wave: NDArray[np.float32], rate: int) -> Sync:
    """Frames [F, H, W, 3] of the clip's head and its sound [2, S]."""
    from sky4.world.measure_audio import measure_audio  # these load torch
    from sky4.world.measure_video import measure_video
    from sky4.world.pairing import pair_events

    seconds = min(len(frames) / fps, Fraction(wave.shape[1], rate))
    seen: tuple[float, ...] = ()
    if len(frames) >= SHORTEST:
        video = measure_video(frames, fps)
        if max(video.shape_scores.values(), default=0.0) >= SURE:
            seen = tuple(time for time in video.events if time < seconds)
    heard = measure_audio(wave, rate).onsets if seen else ()
    return Sync(seen, heard, pair_events(seen, heard, float(seconds)).offsets)
