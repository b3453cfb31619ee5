"""Decoding in smaller pieces: after memory ran out the frames go on, each once, and look the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sky4.encoders.tiling import WHOLE, SmallerTiles, Tiling, spans
from sky4.encoders.video_vae import HunyuanCodec, WanCodec, load_video_codec
from sky4.errors import Sky4Failure
from sky4.pipeline.model_folder import BUNDLED
from sky4.world.render import render_video
from sky4.world.scene import sample_scene
from tests.encoders.tiny_models import save_hunyuan, save_wan

LADDER = (WHOLE, Tiling(1), Tiling(1, 32))


class Starving:
    """A codec that runs out of memory on the first `rungs` tilings, after so many chunks."""

    def __init__(self, codec: WanCodec, rungs: int, error: type[BaseException], after: int = 1) -> None:
        self.codec, self.rungs, self.error, self.after = codec, rungs, error, after
        self.tried: list[Tiling] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)

    def ladder(self, latents: Tensor) -> tuple[Tiling, ...]:
        return LADDER

    def decode(self, latents: Tensor, tiling: Tiling = WHOLE) -> Iterator[Tensor]:
        return self._decoded(latents, tiling)

    def _decoded(self, latents: Tensor, tiling: Tiling) -> Iterator[Tensor]:
        self.tried.append(tiling)
        for number, chunk in enumerate(self.codec.decode(latents, tiling)):
            if LADDER.index(tiling) < self.rungs and number == self.after:
                raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
            yield chunk


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> WanCodec:
    codec = load_video_codec(save_wan(tmp_path_factory.mktemp("wan")))
    assert isinstance(codec, WanCodec)
    return codec


def whole(codec: Any, latents: Tensor, *tiling: Tiling) -> Tensor:
    return torch.cat(list(codec.decode(latents, *tiling)), 2)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_after_memory_ran_out_the_frames_go_on_where_they_were(wan: WanCodec, error: type[BaseException]) -> None:
    latents = torch.randn(1, 4, 6, 4, 6)
    starving = Starving(wan, 1, error)
    codec = SmallerTiles(starving)
    assert torch.allclose(whole(codec, latents), whole(wan, latents), atol=5e-6)
    assert (starving.tried, codec.rung) == ([WHOLE, Tiling(1)], 1)
    list(codec.decode(latents))  # it stays there
    assert starving.tried == [WHOLE, Tiling(1), Tiling(1)]


def test_below_the_last_rung_is_a_sentence(wan: WanCodec, caplog: pytest.LogCaptureFixture) -> None:
    codec = SmallerTiles(Starving(wan, 3, torch.OutOfMemoryError, after=0))
    with pytest.raises(Sky4Failure, match="memory ran out while decoding, even with 1 latent frame at a time, tiles"):
        list(codec.decode(torch.randn(1, 4, 3, 8, 8)))
    assert [message.partition("(")[2].partition(")")[0] for message in caplog.messages] == [
        *("whole frames", "1 latent frame at a time")
    ]


def test_other_errors_are_no_lack_of_memory(wan: WanCodec) -> None:
    with pytest.raises(ZeroDivisionError):
        list(SmallerTiles(Starving(wan, 1, ZeroDivisionError)).decode(torch.randn(1, 4, 3, 4, 4)))


def test_a_run_may_begin_lower(wan: WanCodec) -> None:
    starving = Starving(wan, 0, MemoryError)
    codec = SmallerTiles(starving)
    assert codec.decode_smaller(2)
    assert not codec.decode_smaller(1)
    list(codec.decode(torch.randn(1, 4, 2, 4, 4)))
    assert starving.tried == [Tiling(1, 32)]
    assert codec.decode_smaller(99)  # deeper than the ladder is its end
    list(codec.decode(torch.randn(1, 4, 2, 4, 4)))
    assert starving.tried[-1] == Tiling(1, 32)


def alike(one: Tensor, other: Tensor) -> float:
    """Correlation: random weights see far, so that tiles of theirs are never quite equal to the whole."""
    return float(torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1])


def test_tiles_stand_where_they_belong(wan: WanCodec) -> None:
    latents = torch.nn.functional.interpolate(torch.randn(1, 4, 3, 3, 4), (3, 18, 26), mode="trilinear")
    exact, tiled = whole(wan, latents), whole(wan, latents, Tiling(1, 96))
    assert tiled.shape == exact.shape
    assert alike(tiled, exact) > max(0.9, alike(tiled.roll(8, -1), exact))
    single = whole(wan, latents, Tiling(1, 9999))
    assert torch.allclose(single, exact, atol=1e-3)  # held in half precision


@pytest.mark.slow
def test_tiles_of_the_bundled_codec_look_like_the_whole() -> None:
    codec = load_video_codec(BUNDLED / "video_vae")
    pixels = render_video([sample_scene(1, 3)], 5, 16, 192)
    latents = codec.encode(pixels)
    exact, tiled = whole(codec, latents), whole(codec, latents, Tiling(1, 128))
    off, codecs_own = (float((one - other).square().mean()) for one, other in ((tiled, exact), (exact, pixels)))
    assert off < codecs_own / 20


@pytest.mark.parametrize(("length", "size"), [(1, 8), (8, 8), (9, 8), (30, 8), (31, 4), (120, 8), (7, 1)])
def test_pieces_cover_all_and_share_a_quarter(length: int, size: int) -> None:
    pieces = spans(length, size)
    assert (pieces[0][0], pieces[-1][1]) == (0, length)
    assert all(end - begin == min(size, length) for begin, end in pieces)
    for (_, end), (begin, _) in pairwise(pieces):
        assert end - begin >= size // 4


def test_the_ladder_has_only_rungs_that_make_a_difference(wan: WanCodec) -> None:
    assert wan.ladder(torch.zeros(1, 4, 3, 8, 8)) == (WHOLE, Tiling(1))
    assert wan.ladder(torch.zeros(1, 4, 3, 90, 160)) == (WHOLE, *(Tiling(1, side) for side in (512, 256, 128)))


def test_hunyuans_own_tiles_become_smaller(tmp_path: Path) -> None:
    codec = load_video_codec(save_hunyuan(tmp_path))
    assert isinstance(codec, HunyuanCodec)
    latents = torch.nn.functional.interpolate(torch.randn(1, 4, 2, 3, 3), (2, 20, 12), mode="trilinear")
    assert codec.ladder(latents) == (WHOLE, Tiling(side=128), Tiling(side=64))
    exact = whole(codec, latents)
    small = whole(codec, latents, Tiling(side=128))
    assert small.shape == exact.shape
    assert alike(small, exact) > max(0.8, alike(small.roll(8, -1), exact))
    assert torch.equal(whole(codec, latents), exact)  # and large again where they are not asked for
