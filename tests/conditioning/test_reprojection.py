"""A first guess at another shot: against the world's own camera, and as part of what is known of a clip."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sky4.conditioning import ShotSwitch
from sky4.conditioning.inpaint import guided_by
from sky4.conditioning.reprojection import ShotGuess, View, guess_shot, guessable, seen
from sky4.shots.kinds import CONTENTS
from sky4.world.families import sample_family
from sky4.world.render import render_video
from sky4.world.take import Framing, Take

SIZE = 96


def drawn(framing: Framing, number: int = 2) -> Tensor:
    """A still [3, SIZE, SIZE] of a take whose backdrop has something to see."""
    take: Take = sample_family(3, number, "train", 3).base
    return render_video([Take(**{**vars(take), "framing": framing})], 1, 16, SIZE)[0, :, 0]


@pytest.mark.parametrize(
    "view",
    [View(0.5), View(1.0, behind=True), View(1.0, lean=0.2), View(1.0, behind=True, lean=0.2), View(0.7, lean=-0.3)],
)
def test_a_view_is_what_the_worlds_camera_sees_from_there(view: View) -> None:
    still = drawn(Framing())
    there = drawn(Framing(width=view.width, mirrored=view.behind, roll=view.lean))
    made = seen(still[:, None], view)
    inside = slice(SIZE // 5, -SIZE // 5)  # what lies beyond the old frame is no more than its edge
    apart = (made - there)[:, inside, inside].abs().mean()
    assert apart < 0.03
    assert (still - there)[:, inside, inside].abs().mean() > 2 * apart


def test_from_further_away_the_whole_is_small_and_its_edges_go_on() -> None:
    still = drawn(Framing())
    made = seen(still[:, None], View(2.0))
    small = torch.nn.functional.avg_pool2d(still, 2)
    quarter = SIZE // 4
    torch.testing.assert_close(made[:, quarter:-quarter, quarter:-quarter], small, atol=0.02, rtol=0)
    assert (made[:, :quarter, quarter] - made[:, :1, quarter]).abs().max() < 1e-4


def test_a_nearer_view_follows_what_moves() -> None:
    film = torch.zeros(3, 5, 64, 64) - 1
    for frame in range(5):
        film[:, frame, 8:16, 40 + 2 * frame : 48 + 2 * frame] = 1.0
    near, still = seen(film, View(0.5, follows=True)), seen(film, View(0.5))
    rows, columns = torch.nonzero(near[0] > 0, as_tuple=True)
    assert len(rows) > 0.9 * 4 * 64  # the square is there whole, four times as large
    assert still.max() < 0
    assert torch.equal(seen(film[:, -1:], View(0.5, follows=True)), still)  # one frame alone tells of no motion
    assert float(columns.float().mean()) > 32  # no nearer to the frame's edge than its window may be


def test_shots_of_another_subject_are_not_guessed() -> None:
    frames = torch.randn(5, 3, 2, 8, 8)
    guess = guess_shot(frames, CONTENTS, lambda stills: stills.mean((2, 3))[:, :, None, None, None])
    assert guess.latents.shape == (5, 3, 1, 1, 1)
    told = dict(zip(CONTENTS, guess.known.tolist(), strict=True))
    assert [kind for kind, known in told.items() if known] == ["cut-in", "cut-out", "multi-angle"]
    assert torch.equal(guessable(CONTENTS), guess.known)
    half = guess.part(slice(2, 5))
    assert torch.equal(half.latents, guess.latents[2:])
    assert half.known.tolist() == guess.known[2:].tolist()


def test_a_guess_is_known_behind_the_switch_and_nowhere_else() -> None:
    source, black, guess = torch.randn(2, 4, 5, 2, 3), torch.randn(1, 4, 5, 2, 3), torch.randn(2, 4, 1, 2, 3)
    keep = torch.zeros(2, 1, 5, 2, 3)
    keep[:, :, :3] = 1.0
    keep[0, :, 3] = 1.0  # of the second shot too: what is kept of it tells more than a guess
    given = ShotGuess(guess, torch.tensor([True, True]))
    switch = ShotSwitch(3, 0)
    condition = guided_by(source, keep, black, source, switch, given)
    assert torch.equal(condition.latents[0], source[0, :, (0, 1, 2, 3, 3)])
    assert torch.equal(condition.latents[1, :, 3:], guess[1].expand(-1, 2, -1, -1))
    assert torch.equal(condition.latents[1, :, :3], source[1, :, :3])
    assert condition.offset is not None
    assert torch.equal(condition.offset[1, :, 3:], guess[1].expand(-1, 2, -1, -1))
    nothing = guided_by(source, keep, black, source, switch, ShotGuess(guess, torch.tensor([True, False])))
    plain = guided_by(source, keep, black, source, switch)
    assert torch.equal(nothing.latents[1], plain.latents[1])
    assert nothing.offset is not None and plain.offset is not None
    assert torch.equal(nothing.offset[1], plain.offset[1])
