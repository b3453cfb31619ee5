"""What a shot detector sees of a film: a few numbers for each frame, and for two frames how they are related.

Cheap on purpose: pictures are thumbnails of 24 pixels a side, looked at at about 16 frames a second.

Legend: T thumbnails, S = SIDE, F frame features, P pair features.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

SIDE = 24  # pixels of a thumbnail
BINS = 4  # of a colour's channel in a histogram
LAGS = (2, 4, 6)  # thumbnails on either side that a mixture is looked for between
STEPS = (4, 8, 14)  # thumbnails back that a picture is compared with
REACH = max(*LAGS, *STEPS)  # thumbnails before and behind that a frame's features take in
SHIFTS = 8  # pixels of a thumbnail that a push may move in one step
ZOOMS = (1.3, 1.6, 2.0, 2.5)
LEANS = (-16, -11, -6, 6, 11, 16)  # degrees that another angle of the same may be aslant
RING = 3  # pixels of a thumbnail's border: the background, mostly

Thumbnails = NDArray[np.float32]  # [T, S, S, 3] in 0..1
Floats = NDArray[np.float32]

LASTS = 3  # thumbnails on either side that a change for good is looked for between
NEAR = 1, 2  # pixels of a thumbnail that a thing may move by itself, without a cut
BLOCK = 4  # pixels of the side of a part of the picture that may change alone

FRAME_FEATURES = 6 + len(STEPS) + 2 * len(LAGS) + 5 + 2 * (3 + len(NEAR))
PAIR_FEATURES = 2 * len(ZOOMS) + 18


def thumbnail(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame [H, W, 3] at [S, S, 3], each pixel the mean of what it covers."""
    if frame.shape[:2] == (SIDE, SIDE):
        return frame
    height, width = frame.shape[:2]
    step = max(1, min(height, width) // (4 * SIDE))  # of a large frame a part is enough for the mean
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(frame[::step, ::step])).resize((SIDE, SIDE), Image.Resampling.BOX)
    )


def frame_features(pictures: Thumbnails) -> Floats:
    """[T, F]: what changes at each thumbnail, beside REACH others before and behind (the ends are held)."""
    count = len(pictures)
    held = np.pad(pictures, ((REACH, REACH), (0, 0), (0, 0), (0, 0)), mode="edge")

    def at(lag: int) -> Thumbnails:
        return held[REACH + lag : REACH + lag + count]

    change, before = at(0) - at(-1), at(-1) - at(-2)
    apart = np.abs(change).mean(-1)  # [T, S, S]
    grey = pictures.mean(-1)
    columns: list[NDArray[np.floating]] = [
        _log(apart.mean((1, 2))),
        _log(np.quantile(apart.reshape(count, -1), 0.9, axis=1)),
        _histogram_change(pictures),
        grey.mean((1, 2)),
        grey.std((1, 2)),
        change.mean((1, 2, 3)) * 4,
    ]
    columns += [_log(np.abs(at(0) - at(-step)).mean((1, 2, 3))) for step in STEPS]
    for lag in LAGS:  # half way between the two on either side: a dissolve
        away, middle = at(lag) - at(-lag), at(0) - 0.5 * (at(lag) + at(-lag))
        size = _norm(away)
        columns += [_norm(middle) / (size + 0.3), _log(size / SIDE)]
    columns += [
        (change * before).sum((1, 2, 3)) / (_norm(change) * _norm(before) + 0.05),  # the same step again
        (apart > 0.04).mean((1, 2)),  # how much of the picture changes
        np.abs((apart > 0.04).mean(1) - (apart > 0.04).mean((1, 2))[:, None]).max(1),  # in some columns alone: a wipe
        *_pushed(pictures, at(-1)),
    ]
    columns += _parts(apart)
    planes = np.ascontiguousarray(
        np.moveaxis(np.rint(held * 255).astype(np.int16), -1, 0)
    )  # [3, REACH + T + REACH, S, S]

    def planes_at(lag: int) -> NDArray[np.int16]:
        return planes[:, REACH + lag : REACH + lag + count]

    for reach in NEAR:
        columns += _parts(_unmoved(planes_at(0), planes_at(-1), reach))
    beside = [(planes_at(after), planes_at(-before)) for before in range(1, LASTS + 1) for after in range(LASTS)]
    for reach in (0, 1):  # what changes for good, whatever moves through
        columns += _parts(np.minimum.reduce([_unmoved(now, old, reach) for now, old in beside]))
    features = np.stack(columns, 1).astype(np.float32)
    assert features.shape[1] == FRAME_FEATURES
    return features


def pair_features(before: Thumbnails, after: Thumbnails) -> Floats:
    """[P] of the last thumbnails [T, S, S, 3] of one shot and the first ones of the next."""
    first, second = before.mean(0), after.mean(0)
    a, b = before[-1], after[0]
    found: list[float] = []
    for zoom in ZOOMS:  # one inside the other: nearer, further
        found += [_inside(b, a, zoom), _inside(a, b, zoom)]
    found += [_alike(a, b), _alike(a, b[:, ::-1]), _slid(a, b), _slid(a, b[:, ::-1])]
    found += [max(_slid(a, _turned(seen, lean), RING) for lean in LEANS) for seen in (b, b[:, ::-1])]
    ring = np.ones((SIDE, SIDE), bool)
    ring[RING:-RING, RING:-RING] = False
    found += [_shared(first, second), _shared(first[ring], second[ring]), _shared(first[~ring], second[~ring])]
    found += [float(np.abs(np.median(first[ring], 0) - np.median(second[ring], 0)).max())]
    fronts = [_front(picture) for picture in (a, b)]
    (share_a, x_a, y_a, colour_a), (share_b, x_b, y_b, colour_b) = fronts
    found += [share_a, share_b, float(np.log((share_b + 0.01) / (share_a + 0.01))), x_a + x_b, x_a - x_b, y_a - y_b]
    found += [float(np.abs(colour_a - colour_b).max()), float(np.minimum(*(_hues(p) for p in (a, b))).sum())]
    features = np.array(found, np.float32)
    assert features.shape == (PAIR_FEATURES,)
    return features


def lasting_change(before: Thumbnails, after: Thumbnails) -> Floats:
    """[2] of a supposed cut between the thumbnails [T, S, S, 3]: what changes for good, whatever moves through.

    Of each pixel the least change between any one before and any one after: a thing that flies past leaves none.
    """
    least = np.abs(before[:, None] - after[None]).mean(-1).min((0, 1))
    return np.array([np.log10(least.mean() + 1e-3) + 2, 5 * np.quantile(least, 0.9)], np.float32)


def _parts(change: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Of a change [T, S, S] of each pixel: its mean, and its mean in the part where it is greatest."""
    side = SIDE // BLOCK
    parts = change.reshape(-1, side, BLOCK, side, BLOCK).mean((2, 4)).reshape(len(change), -1)
    return [_log(change.mean((1, 2))), _log(parts.max(1))]


def _unmoved(now: NDArray[np.int16], before: NDArray[np.int16], reach: int) -> NDArray[np.floating]:
    """[T, S, S] in 0..1: how each pixel of pictures [3, T, S, S] in 0..255 differs from the one most like it within
    `reach` in those before."""
    held = np.pad(before, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    least = np.full(now.shape[1:], 3 * 255, np.int16)
    for y in range(2 * reach + 1):
        for x in range(2 * reach + 1):
            apart = np.abs(now - held[:, :, y : y + SIDE, x : x + SIDE])
            np.minimum(least, apart[0] + apart[1] + apart[2], out=least)
    return least.astype(np.float32) / (3 * 255)


def _log(value: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(np.log10(value + 1e-3) / 2 + 1)


def _norm(pictures: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(np.sqrt(np.square(pictures).sum((1, 2, 3))))


def _bins(pictures: NDArray[np.floating]) -> NDArray[np.int64]:
    levels = np.minimum((pictures * BINS).astype(np.int64), BINS - 1)
    return np.asarray(levels[..., 0] * BINS**2 + levels[..., 1] * BINS + levels[..., 2])


def _histogram_change(pictures: Thumbnails) -> NDArray[np.floating]:
    """[T]: how much of the picture changes its colour's bin in the whole, 0 to 1."""
    count = len(pictures)
    flat = _bins(pictures).reshape(count, -1) + np.arange(count)[:, None] * BINS**3
    found = np.bincount(flat.ravel(), minlength=count * BINS**3).reshape(count, -1) / SIDE**2
    change = np.zeros(count)
    change[1:] = np.abs(np.diff(found, axis=0)).sum(1) / 2
    return change


def _pushed(now: Thumbnails, before: Thumbnails) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """(how much less the picture changes if the one before is moved sideways, by how much), along columns' means."""
    a, b = now.mean(1), before.mean(1)  # [T, S, 3]
    still = np.abs(a - b).mean((1, 2))
    costs = [still]
    for shift in range(1, SHIFTS + 1):
        costs.append(np.abs(a[:, :-shift] - b[:, shift:]).mean((1, 2)))
    cost = np.stack(costs, 1)
    best = cost.argmin(1)
    return (still - cost.min(1)) / (still + 0.01), best / SHIFTS


def _unit(picture: NDArray[np.floating]) -> NDArray[np.floating]:
    centred = picture - picture.mean()
    return np.asarray(centred / (np.sqrt(np.square(centred).sum()) + 0.3))  # nearly without contrast, nothing is alike


def _alike(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    return float((_unit(a) * _unit(b)).sum())


def _inside(small: NDArray[np.floating], large: NDArray[np.floating], zoom: float) -> float:
    """How well the picture `small`, made smaller by `zoom`, is found somewhere in the other: a correlation."""
    size = round(SIDE / zoom)
    picture = Image.fromarray(np.rint(small * 255).clip(0, 255).astype(np.uint8)).resize(
        (size, size), Image.Resampling.BOX
    )
    template = _unit(np.asarray(picture, np.float32) / 255).reshape(-1)
    windows = sliding_window_view(large, (size, size, 3)).reshape(-1, size * size * 3)
    windows = windows - windows.mean(1, keepdims=True)
    scale = np.sqrt(np.square(windows).sum(1)) + 0.3
    return float(((windows @ template.reshape(size, size, 3).reshape(-1)) / scale).max())


def _slid(a: NDArray[np.floating], b: NDArray[np.floating], border: int = 0) -> float:
    """The best correlation with the other moved sideways, over what both show inside a border."""
    best, rows = -1.0, slice(border, SIDE - border)
    for shift in range(-SIDE // 3, SIDE // 3 + 1, 2):
        left, right = border + max(0, shift), SIDE - border + min(0, shift)
        best = max(best, _alike(a[rows, left:right], b[rows, left - shift : right - shift]))
    return best


def _turned(picture: NDArray[np.floating], degrees: float) -> NDArray[np.floating]:
    """A thumbnail turned about its middle; what comes in from outside is black."""
    image = Image.fromarray(np.rint(picture * 255).clip(0, 255).astype(np.uint8))
    return np.asarray(image.rotate(degrees, Image.Resampling.BILINEAR), np.float32) / 255


def _shared(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """The part of both pictures' colour histograms that is common."""
    one, other = (
        np.bincount(_bins(p.reshape(-1, 3)), minlength=BINS**3) / max(1, p.size // 3) for p in (a, b)
    )  # fmt: skip
    return float(np.minimum(one, other).sum())


def _front(picture: NDArray[np.floating]) -> tuple[float, float, float, NDArray[np.floating]]:
    """(share, centre x and y about the middle, mean colour) of what stands out: brighter or more colourful."""
    strength = picture.max(-1)
    back = np.quantile(strength, 0.3)
    weight = np.clip((strength - back - 0.15) / 0.3, 0, 1)
    total = float(weight.sum())
    if total < 1:
        return 0.0, 0.0, 0.0, np.zeros(3, np.float32)
    axis = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    colour = (picture * weight[..., None]).sum((0, 1)) / total
    return total / SIDE**2, float(weight.sum(0) @ axis / total), float(weight.sum(1) @ axis / total), colour


def _hues(picture: NDArray[np.floating]) -> NDArray[np.floating]:
    """A histogram of twelve hues, each pixel as heavy as it is colourful, of sum 1 (0 for grey pictures)."""
    red, green, blue = (picture[..., channel] for channel in range(3))
    across, along = red - 0.5 * (green + blue), 0.866 * (green - blue)
    strength = np.hypot(across, along)
    strength = np.where(strength > 0.15, strength, 0)
    bins = np.floor((np.arctan2(along, across) / (2 * np.pi) % 1.0) * 12).astype(int).clip(0, 11)
    found = np.bincount(bins.ravel(), weights=strength.ravel(), minlength=12)
    return np.asarray(found / max(float(found.sum()), 1e-6))
