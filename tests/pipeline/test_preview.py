"""Previews: close to what the codec would show, never in the way of anything that is the user's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sky4.diffusion.sampler import Moment, schedule
from sky4.errors import RequestError
from sky4.pipeline import preview
from sky4.pipeline.components import Components
from sky4.pipeline.generate import generate_clip, generate_clips
from sky4.pipeline.model_folder import BUNDLED
from sky4.pipeline.preview import Previews, Projection, contact_sheet, projection_of, seen_by_latents
from sky4.pipeline.preview_file import check_preview, preview_path, remove_preview, write_preview
from sky4.pipeline.segments import plan
from sky4.world.render import render_video
from sky4.world.scene import sample_scene
from tests.pipeline.plain import PLAIN


class Averages:
    """A codec whose latents are known in closed form: half-sized pixels and, as another channel, their mean."""

    channels, spatial_compression, temporal_compression = 13, 2, 2

    def encode(self, pixels: Tensor) -> Tensor:
        groups = [pixels[:, :, :1], *pixels[:, :, 1:].split(2, dim=2)]
        frames = torch.stack([group.mean(2) for group in groups], 2)  # [B, 3, T, H, W]
        cells = frames.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 1, 4, 6, 2, 3, 5).flatten(1, 3)
        return torch.cat((cells, cells.mean(1, keepdim=True)), 1)


def test_a_codec_that_is_linear_is_seen_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "SCENES", 12)
    codec = Averages()
    projection = Projection.fit(codec)  # type: ignore[arg-type]
    assert projection.detail == 2
    pixels = render_video([sample_scene(3, 5, level=2)], 5, 16, 32)
    wanted = seen_by_latents(pixels, codec, 2)[0].permute(1, 2, 3, 0)  # type: ignore[arg-type]
    shown = projection.frames(codec.encode(pixels))
    assert shown.shape == (3, 32, 32, 3)
    assert np.abs(shown - wanted.add(1).mul(127.5).numpy()).mean() < 2.5  # of 255; the ridge leaves a little


@pytest.mark.slow
def test_with_the_bundled_model_it_looks_like_the_codecs_picture_made_small(tmp_path: Path) -> None:
    """Scenes, and pairs of shape and colour, that it was not fitted on."""
    components = Components.load(BUNDLED, "cpu", "float32")
    projection = Projection.fit(components.video_codec)
    shown, wanted = [], []
    for index in range(4):
        latents = components.video_codec.encode(
            render_video([sample_scene(9, index, "heldout", 1 + index % 2)], 17, 16, 64)
        )
        decoded = torch.cat(list(components.video_codec.decode(latents)), 2)
        small = seen_by_latents(decoded, components.video_codec, projection.detail)
        wanted.append(small[0].permute(1, 2, 3, 0).add(1).mul(127.5).numpy().ravel())
        shown.append(projection.frames(latents).ravel())
    together = float(np.corrcoef(np.concatenate(shown), np.concatenate(wanted))[0, 1])
    assert together > 0.85, together


def test_it_is_fitted_once_and_then_read(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "SCENES", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = projection_of(components)
    [kept] = (tmp_path / "sky4" / "previews").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(Projection, "fit", lambda codec: pytest.fail("fitted again"))
        assert torch.equal(projection_of(components).weight, first.weight)
    kept.write_bytes(kept.read_bytes()[:-1])
    assert torch.equal(projection_of(components).weight, first.weight)  # fitted again, to the same
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert torch.equal(projection_of(components).weight, first.weight)


def test_sheets_come_every_so_many_steps_and_show_where_sampling_points_at(
    components: Components, tmp_path: Path
) -> None:
    seen: list[Tensor] = []

    class Spied(Projection):
        def frames(self, latents: Tensor) -> np.ndarray:
            seen.append(latents)
            return super().frames(latents)

    told: list[tuple[Path, tuple[int, int], int, int]] = []
    weight = torch.zeros(2, 9 * 16 + 1, 12)
    previews = Previews(
        2, {7: tmp_path / "clip.mp4"}, Spied(weight, 2), lambda path, sheet, *at: told.append((path, sheet.size, *at))
    )
    [clip] = generate_clips(PLAIN.variation(7), components, seen=lambda *moment: previews.seen(*moment))
    assert [line[0].name for line in told] == ["clip.preview.png"]
    assert told[0][2:] == (2, 2)
    assert Image.open(tmp_path / "clip.preview.png").size == told[0][1]
    assert clip.latents[0] is not None
    assert torch.allclose(seen[-1], clip.latents[0], atol=1e-5)  # at t = 1 the estimate is the clip


def test_a_preview_changes_no_bit_of_the_clip(components: Components, tmp_path: Path) -> None:
    previews = Previews(1, {0: tmp_path / "clip.mp4"}, Projection(torch.zeros(2, 145, 12), 2), lambda *_: None)
    [clip] = generate_clips(PLAIN, components, seen=previews.seen)
    assert clip.checksums == generate_clip(PLAIN, components).checksums
    assert preview_path(tmp_path / "clip.mp4").exists()


def test_what_is_given_or_heard_alone_has_no_preview(components: Components, tmp_path: Path) -> None:
    previews = Previews(1, {0: tmp_path / "clip.wav"}, Projection(torch.zeros(2, 145, 12), 2), lambda *_: None)
    list(generate_clips(replace(PLAIN, outputs="audio"), components, seen=previews.seen))
    assert not list(tmp_path.iterdir())
    previews = Previews(1, {0: tmp_path / "clip.mp4"}, Projection(torch.zeros(2, 145, 12), 2), lambda *_: None)
    held = schedule(2, hold="video")  # as where the sound is made for a given picture
    window = plan(PLAIN, components.folder.geometry(32, 32, 9, PLAIN.fps))[0]
    for step in (1, 2):
        previews.seen(PLAIN, window, Moment(step, (torch.zeros(1, 16, 3, 4, 4), None)), held)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "size"), [(1, (128, 144)), (8, (1038, 144)), (21, (1038, 404)), (99, (1038, 534))])
def test_a_sheet_holds_so_many_frames(count: int, size: tuple[int, int]) -> None:
    assert contact_sheet(np.zeros((count, 16, 16, 3), np.uint8), "step 1 of 2").size == size


def test_a_file_that_is_not_ours_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    write_preview(preview_path(out), Image.new("RGB", (4, 4)))
    check_preview(out)  # an older one of ours
    remove_preview(out)
    assert not preview_path(out).exists()
    remove_preview(out)
    Image.new("RGB", (4, 4)).save(preview_path(out))
    with pytest.raises(RequestError, match="is no preview that sky4 drew; move it"):
        check_preview(out)
    remove_preview(out)
    assert preview_path(out).exists()
