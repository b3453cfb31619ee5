"""Speakers: sounds that each drive a region of the picture, and are heard together. No torch here.

Legend: S samples, H W pixels, h w latent cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sky4.errors import RequestError
from sky4.media import probe_image, read_audio
from sky4.media.fit import fit_picture
from sky4.media.mask_frames import Footage, check_places, edit_frames
from sky4.media.masks import EditRegion

if TYPE_CHECKING:
    from sky4.pipeline.request import ClipRequest

MOST = 4  # speakers: each is another evaluation of the model in every step
Selected = NDArray[np.bool_]
Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Speaker:
    """A sound, and where in the picture it is followed: masks and boxes on the first picture, or else on the clip."""

    name: str
    path: Path
    region: EditRegion

    @property
    def flag(self) -> str:
        return f"--speaker {self.name}"


def check_driving(request: ClipRequest) -> None:
    """RequestError for sounds that drive the picture and do not go with the rest of the request."""
    if not request.driven:
        return
    flag, speakers = request.driving, request.speakers
    if request.video is not None:
        raise RequestError(f"--video and {flag} are both given, so nothing is left to make; drop one")
    if request.outputs not in ("both", "video"):
        raise RequestError(f"{flag} drives a picture; drop --only {request.outputs}")
    if not speakers:
        return
    if request.audio is not None:
        raise RequestError("--audio and --speaker are both given; give each speaker's sound alone, and drop --audio")
    if request.keyed:
        raise RequestError("--keyframes know no regions of --speaker; drop --keyframes")
    if len(speakers) > MOST:
        raise RequestError(f"--speaker is given {len(speakers)} times; give up to {MOST}")
    names = [speaker.name for speaker in speakers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"--speaker {twice} is given twice; choose another name for one of them")
    for speaker in speakers:
        moving = next((mask for mask in speaker.region.files if mask.kind != "picture"), None)
        if moving is not None:
            raise RequestError(f"--mask {speaker.name}={moving.path} is no picture; a speaker stays where it is")


def check_regions(request: ClipRequest) -> None:
    """RequestError for regions that do not fit the picture, select nothing of it, or overlap; reads the masks."""
    footage, of = _footage(request)
    selected = []
    for speaker in request.speakers:
        try:
            check_places(speaker.region, footage, of)
        except RequestError as error:
            raise RequestError(f"{speaker.flag}: {error}") from error
        own = _selected(speaker, footage)
        if not own.any():
            raise RequestError(f"{speaker.flag}: {speaker.region.flags} selects nothing; white is where it speaks")
        selected.append((speaker, own))
    for (one, here), (other, there) in combinations(selected, 2):
        both = int((here & there).sum())
        if both:
            raise RequestError(
                f"--speaker {one.name} and --speaker {other.name} overlap in {both} pixels; "
                "give masks or boxes that lie apart"
            )


def regions(request: ClipRequest) -> list[Selected]:
    """Of each speaker the pixels [H, W] of the clip that are its own."""
    footage, _ = _footage(request)
    size = request.width, request.height
    shown = []
    for speaker in request.speakers:
        grey = np.where(_selected(speaker, footage), np.uint8(255), np.uint8(0))
        shown.append(fit_picture(np.repeat(grey[..., None], 3, axis=-1), size)[..., 0] >= 128)  # cut as the picture is
    return shown


def cell_shares(selected: Selected, cell: int) -> NDArray[np.float32]:
    """[h, w]: how much of each latent cell of `cell` pixels a side is selected, 0 to 1."""
    height, width = (side // cell for side in selected.shape)
    cells = selected[: height * cell, : width * cell].reshape(height, cell, width, cell)
    return np.asarray(cells.mean((1, 3)), np.float32)


def heard(request: ClipRequest, rate: int, begin: Fraction = Fraction(0), end: Fraction | None = None) -> Wave | None:
    """The sound [2, S] that drives the picture and is heard with it, from `begin` to `end` in seconds (all of the clip
    where none is named); None where none is given.

    Of speakers their sum, as much lower as keeps all of it from clipping. It may end before the clip does.
    """
    skip, until = round(begin * rate), request.seconds if end is None else end
    if request.audio is not None:
        return read_audio(request.audio, float(until), rate, skip)
    if not request.speakers:
        return None
    waves = [read_audio(speaker.path, float(request.seconds), rate) for speaker in request.speakers]
    whole = np.zeros((2, max(wave.shape[1] for wave in waves)), np.float32)
    for wave in waves:
        whole[:, : wave.shape[1]] += wave
    peak = float(np.abs(whole).max(initial=0.0))
    part = whole[:, skip : round(until * rate)]
    return np.asarray(part / peak, np.float32) if peak > 1 else part


def _footage(request: ClipRequest) -> tuple[Footage, Path]:
    """The picture that regions are drawn on, and its file: the clip's first, or where none is given the clip itself."""
    first = next((s for s in request.sources if s.is_picture and request.start_of(s) == 0), None)
    width, height = (request.width, request.height) if first is None else probe_image(first.path)
    still = Fraction(1)
    return Footage(width, height, still, 1, still, 1), Path("the clip") if first is None else first.path


def _selected(speaker: Speaker, footage: Footage) -> Selected:
    return next(edit_frames(speaker.region, footage)) > 0
