"""What happens to the picture after it is drawn: weather, light, style, an effect, and what is written over it.

Pictures are [F, H, W, 3] in 0..1; time [F]; x, y [F, H, W] the frame's own coordinates; p [F] how far an effect is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from sky4.world.take import EFFECT_SECONDS, Overlay

LIGHT_GAINS: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "night": (0.45, 0.5, 0.72),
    "warm": (1.0, 0.84, 0.56),
    "cool": (0.62, 0.86, 1.0),
}
OVERCAST: dict[str, tuple[float, float, float]] = {"rain": (0.72, 0.76, 0.84), "snow": (0.9, 0.92, 0.96)}
FOG = (0.46, 0.47, 0.5)
BLOCK = 1 / 8  # a cell of pixel art, in unit widths
OPACITY = {"watermark": 0.75, "subtitle": 1.0, "logo": 0.85}


def progress(time: Tensor) -> Tensor:
    """How far an effect is, 0 to 1."""
    return (time / EFFECT_SECONDS).clamp(0, 1)


def bent(effect: str, p: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where the effects that move points take the picture from."""
    p = p[:, None, None]
    if effect == "mosaic":
        cell = 0.012 + 0.17 * p
        return (torch.floor(x / cell) + 0.5) * cell, (torch.floor(y / cell) + 0.5) * cell
    if effect == "melt":
        run = 0.55 + 0.45 * torch.sin(2 * math.pi * (3 * x + 0.2)) * torch.sin(2 * math.pi * (1.3 * x + 0.7))
        return x, y - 0.6 * p.square() * run
    if effect == "swirl":
        dx, dy = x - 0.5, y - 0.5
        angle = 4.5 * p * (1 - torch.hypot(dx, dy) / 0.75).clamp(min=0)
        return 0.5 + dx * torch.cos(angle) - dy * torch.sin(angle), 0.5 + dx * torch.sin(angle) + dy * torch.cos(angle)
    return x, y


def tinted(effect: str, p: Tensor, picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The effects that change what is seen at a point."""
    p = p[:, None, None]
    if effect == "colour-cycle":
        matrix = _hue(2 * math.pi * p[:, 0, 0])  # [F, 3, 3]
        return torch.einsum("fij,fhwj->fhwi", matrix, picture).clamp(0, 1)
    if effect == "dissolve":
        grain = (
            0.5 + 0.25 * torch.sin(19 * x + 3 * torch.sin(11 * y)) + 0.25 * torch.sin(23 * y + 2 * torch.sin(13 * x))
        )
        return picture * ((grain - 1.4 * p) * 5 + 1.0).clamp(0, 1)[..., None]
    if effect == "curtain":
        return picture * ((0.5 * (1 - p) - (x - 0.5).abs()) * 24 + 0.5).clamp(0, 1)[..., None]
    return picture


def _hue(angle: Tensor) -> Tensor:
    """Rotations about the grey axis [F, 3, 3]."""
    cos, sin = torch.cos(angle), torch.sin(angle) / math.sqrt(3)
    same, after, before = (1 + 2 * cos) / 3, (1 - cos) / 3 - sin, (1 - cos) / 3 + sin
    rows = [torch.stack(row, -1) for row in ((same, after, before), (before, same, after), (after, before, same))]
    return torch.stack(rows, -2)


def weathered(weather: str, picture: Tensor, time: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Rain and snow fall through a duller light; fog lies thicker below."""
    if weather == "clear":
        return picture
    if weather == "fog":
        share = (0.5 + 0.25 * y)[..., None]
        return torch.lerp(picture, picture.new_tensor(FOG).expand_as(picture), share)
    picture = picture * picture.new_tensor(OVERCAST[weather])
    now = time[:, None, None]
    columns, rows, speed = (7.0, 2.5, 0.7) if weather == "rain" else (4.0, 3.0, 0.2)
    slant = x + (0.15 * y if weather == "rain" else 0.03 * torch.sin(2 * math.pi * (y + 0.4 * now)))
    column = torch.floor(slant * columns)
    fall = (y - speed * now) * rows + torch.remainder(torch.sin(column * 78.233) * 9631.17, 1.0)
    across, along = torch.remainder(slant * columns, 1.0) - 0.5, torch.remainder(fall, 1.0) - 0.5
    if weather == "rain":
        alpha = 0.6 * ((0.16 - across.abs()) * 10 + 0.5).clamp(0, 1) * ((0.2 - along.abs()) * 6 + 0.5).clamp(0, 1)
        tint = picture.new_tensor((0.6, 0.68, 0.86))
    else:
        distance = torch.hypot(across / columns, along / rows)
        alpha = ((0.035 - distance) * 64 + 0.5).clamp(0, 1)
        tint = picture.new_tensor((0.9, 0.92, 0.96))
    return torch.lerp(picture, tint.expand_as(picture), alpha[..., None])


def lit(light: str, picture: Tensor) -> Tensor:
    return picture if light == "day" else picture * picture.new_tensor(LIGHT_GAINS[light])


def styled(style: str, picture: Tensor) -> Tensor:
    """The styles that work on a finished picture; "outline" is drawn, not made afterwards."""
    if style in ("flat", "outline"):
        return picture
    size = picture.shape[1]
    planes = picture.permute(0, 3, 1, 2)
    if style == "pixel-art":
        block = max(1, round(BLOCK * size))
        small = functional.avg_pool2d(planes, block, ceil_mode=True)
        made = small.repeat_interleave(block, -1).repeat_interleave(block, -2)[..., :size, :size]
    elif style == "watercolour":
        soft = _blurred(planes, 0.035 * size)
        made = 0.22 + 0.78 * torch.lerp(soft, soft.mean(1, keepdim=True), 0.35)
    elif style == "paper-cut":
        made = (torch.floor(planes * 3) + 0.5) / 3
    else:  # sketch: dark lines on light paper
        grey = _blurred(planes.mean(1, keepdim=True), 0.008 * size)
        lines = torch.hypot(_slope(grey, -1), _slope(grey, -2)) * size * 0.16
        made = (0.86 - lines).clamp(0.05, 1).expand_as(planes)
    return made.permute(0, 2, 3, 1)


def _blurred(planes: Tensor, sigma: float) -> Tensor:
    reach = max(1, math.ceil(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=planes.device) / max(sigma, 1e-3)).square())
    taps = (taps / taps.sum()).to(planes)
    channels = planes.shape[1]
    padded = functional.pad(planes, (reach,) * 4, mode="replicate")
    row = functional.conv2d(padded, taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return functional.conv2d(row, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def _slope(planes: Tensor, axis: int) -> Tensor:
    ends = (0, 0, 1, 1) if axis == -2 else (1, 1, 0, 0)
    padded = functional.pad(planes, ends, mode="replicate")
    length = planes.shape[axis]
    return (padded.narrow(axis, 2, length) - padded.narrow(axis, 0, length)) / 2


def overlaid(overlay: Overlay, picture: Tensor) -> Tensor:
    """The picture with a watermark, subtitle or logo over it."""
    alpha = overlay_coverage(overlay, picture.shape[1], picture.device) * OPACITY[overlay.kind]
    white = picture.new_full((3,), 0.93)
    return torch.lerp(picture, white.expand_as(picture), alpha[None, ..., None].expand(*picture.shape[:3], 1))


def overlay_coverage(overlay: Overlay, size: int, device: torch.device | str = "cpu") -> Tensor:
    """What an overlay covers, 0 to 1: [size, size]."""
    fine = 8 * math.ceil(size / 64)
    canvas = torch.zeros(64 * fine, 64 * fine, device=device)
    right, bottom = overlay.corner.endswith("right"), overlay.corner.startswith("bottom")
    if overlay.kind == "logo":  # a ring with a bar through it
        axis = (torch.arange(64 * fine, device=device) + 0.5) / fine
        cx, cy = 54.0 if right else 10.0, 54.0 if bottom else 10.0
        distance = torch.hypot(axis[None] - cx, axis[:, None] - cy)
        bar = ((axis[None] - cx + axis[:, None] - cy).abs() < 1.8) & (distance < 6)
        canvas[((distance - 6).abs() < 1.3) | bar] = 1.0
    else:
        width = 6 * len(overlay.text) - 1
        left, top = (62 - width if right else 2), (55 if bottom else 2)
        if overlay.kind == "subtitle":
            left, top = (64 - width) // 2, 55
        _write(canvas, overlay.text, left, top, fine)
    step = canvas.shape[0] / size
    if step == int(step):
        return functional.avg_pool2d(canvas[None, None], int(step))[0, 0]
    return functional.interpolate(canvas[None, None], size=(size, size), mode="area")[0, 0]


def _write(canvas: Tensor, text: str, left: int, top: int, fine: int) -> None:
    for number, letter in enumerate(text):
        for column, bits in enumerate(bytes.fromhex(FONT[letter])):
            for row in range(7):
                if bits >> row & 1:
                    x, y = left + 6 * number + column, top + row
                    canvas[max(0, y * fine) : (y + 1) * fine, max(0, x * fine) : (x + 1) * fine] = 1.0


# Of each letter five columns of seven dots, the lowest bit on top, as two hexadecimal digits each.
_LETTERS = " 0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_COLUMNS = (
    "0000000000" "3E5149453E" "00427F4000" "4261514946" "2141454B31" "1814127F10" "2745454539" "3C4A494930"
    "0171090503" "3649494936" "064949291E" "7E1111117E" "7F49494936" "3E41414122" "7F4141221C" "7F49494941"
    "7F09090901" "3E4149497A" "7F0808087F" "00417F4100" "2040413F01" "7F08142241" "7F40404040" "7F020C027F"
    "7F0408107F" "3E4141413E" "7F09090906" "3E4151215E" "7F09192946" "4649494931" "01017F0101" "3F4040403F"
    "1F2040201F" "3F4038403F" "6314081463" "0708700807" "6151494543"
)  # fmt: skip
FONT: dict[str, str] = {letter: _COLUMNS[10 * i : 10 * i + 10] for i, letter in enumerate(_LETTERS)}
