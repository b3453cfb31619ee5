"""Training of the shot detector on the world's stories, whose transitions are known exactly.

T thumbnails, F frame features, P pair features. A sample is a story (or a single take) at a rate, a size and in a state
of its own: noisy, dimmed, tinted, shaken, with frames that repeat or flash, in weather, light, style, under a moving
camera. Features are kept in memory, and in files where a folder is named for them: a sample is rendered once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from sky4.shots.detector import AROUND, RATE, around, spans
from sky4.shots.features import (
    FRAME_FEATURES,
    PAIR_FEATURES,
    SIDE,
    Thumbnails,
    frame_features,
    pair_features,
    thumbnail,
)
from sky4.shots.kinds import CONTENTS, OPTICALS, Content
from sky4.shots.network import ShotNetwork, probabilities
from sky4.shots.scoring import Truth
from sky4.train.keyed import generator
from sky4.world.families import sample_family
from sky4.world.render import render_video
from sky4.world.shot_truth import score_stories, story_frames, truths
from sky4.world.stories import Join, Story, sample_story
from sky4.world.take import Take
from sky4.world.vocabulary import CAMERAS, LIGHTS, STYLES, WEATHERS

RATES = (12, 15, 16, 20)  # thumbnails a second, as the detector looks at films
SIZES = (48, 64)
SINGLE = 0.15  # share of samples that are one take, without any transition
CHANGED = 0.25  # how often each of camera, weather, light and style is not the usual one
PROOF_FIRST = 1_000_000  # number of the first story that is kept for that
MOST_PAIRS = 12  # of a sample: up to three transitions, each both ways round, as they are and worn
BLURRED = 1.8  # pixels of a thumbnail at most, standard deviation
BLOTS = 0.1  # of 1, at most: how far a blot is off in colour
SLOWEST = 4  # quarters of a second that a transition lasts at most
FRAME_WEIGHTS = (1.0, *[6.0 if kind == "cut" else 2.0 for kind in OPTICALS])  # cuts are one frame of their shots'


@dataclass(frozen=True)
class ShotDetectorConfig:
    stories: int = 2000  # different samples
    seed: int = 71  # of the stories
    width: int = 64
    hidden: int = 64
    frames: int = 65  # thumbnails of a sample
    pair_weight: float = 1.0
    proof_stories: int = 200  # on which it is fitted what proves a cut
    cache: str | None = None  # a folder in which samples are kept from run to run


@dataclass(frozen=True)
class _Sample:
    features: Tensor  # [T, F] float16
    kinds: Tensor  # [T] int64
    pairs: Tensor  # [N, P] float32
    contents: Tensor  # [N] int64


class ShotDetectorProblem:
    """What happens at each thumbnail, and what the two shots of each transition are: two cross entropies."""

    def __init__(self, config: ShotDetectorConfig, device: str = "cpu") -> None:
        self.config, self.device = config, device
        torch.manual_seed(0)
        self.network = ShotNetwork(config.width, config.hidden).to(device)
        self._kept = _Store(config)

    @property
    def module(self) -> nn.Module:
        return self.network

    def loss(self, seed: int, first: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        """Samples come round again in another order each time."""
        count = self.config.stories
        numbers = [
            int(generator(seed, "order", number // count).permutation(count)[number % count])
            for number in range(first, first + batch)
        ]
        samples = [self._sample(number) for number in numbers]
        features = torch.stack([sample.features for sample in samples]).to(self.device).float()
        kinds = torch.stack([sample.kinds for sample in samples]).to(self.device)
        logits = self.network.frames(features)
        weights = torch.tensor(FRAME_WEIGHTS, device=self.device)
        seen = functional.cross_entropy(logits.flatten(0, 1), kinds.flatten(), weights)
        pairs = torch.cat([sample.pairs for sample in samples]).to(self.device)
        contents = torch.cat([sample.contents for sample in samples]).to(self.device)
        told = self.network.pairs(pairs)
        said = functional.cross_entropy(told, contents)
        right = float((told.argmax(1) == contents).float().mean())
        loss = seen + self.config.pair_weight * said
        return loss, {"frames": float(seen.detach()), "pairs": float(said.detach()), "content": right}

    def _sample(self, number: int) -> _Sample:
        if not self._kept.holds(number):
            self._kept.put(number, _kept_sample(self.config, number))
        return self._kept.get(number)


class _Store:
    """Samples in a few large tensors: small ones kept among the large ones of rendering would leave the heap in holes,
    megabytes of them for each sample."""

    def __init__(self, config: ShotDetectorConfig) -> None:
        count, frames = config.stories, config.frames
        self._features = torch.empty(count, frames, FRAME_FEATURES, dtype=torch.float16)
        self._kinds = torch.empty(count, frames, dtype=torch.int8)
        self._pairs = torch.empty(count, MOST_PAIRS, PAIR_FEATURES)
        self._contents = torch.empty(count, MOST_PAIRS, dtype=torch.int8)
        self._lengths = torch.full((count,), -1, dtype=torch.int16)  # pairs; -1: not there yet

    def holds(self, number: int) -> bool:
        return bool(self._lengths[number] >= 0)

    def put(self, number: int, sample: _Sample) -> None:
        self._features[number], self._kinds[number] = sample.features, sample.kinds
        pairs = len(sample.pairs)
        self._pairs[number, :pairs], self._contents[number, :pairs] = sample.pairs, sample.contents
        self._lengths[number] = pairs

    def get(self, number: int) -> _Sample:
        pairs = int(self._lengths[number])
        return _Sample(
            self._features[number],
            self._kinds[number].long(),
            self._pairs[number, :pairs],
            self._contents[number, :pairs].long(),
        )


def _kept_sample(config: ShotDetectorConfig, number: int) -> _Sample:
    """As make_sample; from its file where there is one, and into it where there is none."""
    if config.cache is None:
        return make_sample(config, number)
    path = (
        Path(config.cache)
        / f"{config.seed}-{config.frames}-{FRAME_FEATURES}-{PAIR_FEATURES}-{MOST_PAIRS}-{number}.safetensors"
    )
    if path.is_file():
        return _Sample(**load_file(path))
    sample = make_sample(config, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in vars(sample).items()}, partial)
    partial.replace(path)
    return sample


def make_sample(config: ShotDetectorConfig, number: int) -> _Sample:
    """Sample `number`: a pure function of the configuration and the number."""
    random = generator(config.seed, "story", number)
    rate, size = RATES[int(random.integers(len(RATES)))], SIZES[int(random.integers(len(SIZES)))]
    seconds = config.frames / rate
    story = sample_story(config.seed, number, seconds=seconds, slowest=SLOWEST)
    takes, joins = tuple(_changed(story.takes, random)), story.joins
    if random.random() < SINGLE:
        shown: Take | Story = takes[0] if random.random() < 0.5 else _changed([_single(config.seed, number)], random)[0]
        joins = ()
    else:
        shown = replace(story, takes=takes)
    video = render_video([shown], config.frames, rate, size)[0]
    frames = video.permute(1, 2, 3, 0).add(1).mul(127.5).round().byte().numpy()
    small = np.asarray(np.stack([thumbnail(frame) for frame in frames]) / 255, np.float32)
    pictures, order = _worn(small, random)
    kinds = _kinds(joins, config.frames, rate)[order]
    features = torch.from_numpy(frame_features(pictures)).half()
    pairs, contents = _pairs(pictures, kinds, joins, random)
    return _Sample(features, torch.from_numpy(kinds), pairs, contents)


def _changed(takes: tuple[Take, ...] | list[Take], random: np.random.Generator) -> list[Take]:
    """The whole story under another camera, weather, light or style."""
    changes: dict[str, Any] = {}
    for name, options in (("camera", CAMERAS), ("weather", WEATHERS), ("light", LIGHTS), ("style", STYLES)):
        if random.random() < CHANGED:
            changes[name] = options[int(random.integers(1, len(options)))]
    return [replace(take, **changes) for take in takes]


def _single(seed: int, number: int) -> Take:
    """A take of a family, an effect at times: what changes much, and is no transition."""
    takes = sample_family(seed, number).takes
    names = ("base", "count", "face", "overlay", "transfer", "effect")
    take = takes[names[number % len(names)]]
    return replace(take, effect="none") if take.effect == "curtain" else take  # which ends in black, as a fade does


def _worn(pictures: Thumbnails, random: np.random.Generator) -> tuple[Thumbnails, NDArray[np.int64]]:
    """Thumbnails as real films have them, and which of the drawn ones each is."""
    order = np.arange(len(pictures))
    if random.random() < 0.2:  # of a lower rate: some come twice
        every = int(random.integers(3, 6))
        order[every - 1 :: every] -= 1
    pictures = pictures[order]
    gain, tint = random.uniform(0.7, 1.2), random.uniform(0.9, 1.1, 3)
    pictures = np.asarray((pictures * gain * tint).clip(0, 1) ** random.uniform(0.8, 1.25), np.float32)
    if random.random() < 0.2:  # handheld
        for frame in range(len(pictures)):
            pictures[frame] = np.roll(pictures[frame], random.integers(-1, 2, 2), (0, 1))
    if random.random() < 0.2:
        flicker = 1 + random.uniform(0.02, 0.08) * np.sin(np.arange(len(pictures)) * random.uniform(0.2, 2))
        pictures *= flicker[:, None, None, None]
    if random.random() < 0.1:  # a flash is no cut
        at = int(random.integers(2, len(pictures) - 4))
        pictures[at : at + int(random.integers(1, 3))] *= random.uniform(1.5, 3)
    if random.random() < 0.1:
        bar = int(random.integers(1, SIDE // 6))
        pictures[:, :bar] = pictures[:, -bar:] = 0
    noise = random.normal(0, 1, pictures.shape) * random.uniform(0, 0.015)
    worn = (pictures + noise).clip(0, 1)
    return np.asarray(np.rint(worn * 255) / 255, np.float32), order


def _kinds(joins: tuple[Join, ...], count: int, rate: int) -> NDArray[np.int64]:
    """[T] of each thumbnail: 0, or 1 + the number of the optical kind."""
    times, kinds = np.arange(count) / rate, np.zeros(count, np.int64)
    for join in joins:
        inside = (times > join.begin) & (times < join.end)
        if join.optical == "cut":
            inside[:] = False
            inside[np.flatnonzero(times >= join.begin)[:1]] = True
        kinds[inside] = 1 + OPTICALS.index(join.optical)
    return kinds


def _pairs(
    pictures: Thumbnails, kinds: NDArray[np.int64], joins: tuple[Join, ...], random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Features of each transition's two shots, both ways round where that has a name too, as they are and as
    `_worn_pair` has them; and their contents."""
    runs = np.flatnonzero(np.diff(np.concatenate([[0], (kinds > 0).astype(np.int8), [0]])))
    rows, contents = [], []
    for join, begin, end in zip(joins, runs[::2], runs[1::2], strict=False):
        last = begin if join.optical == "cut" else end
        before, after = pictures[max(0, begin - AROUND) : begin], pictures[last : last + AROUND]
        if not len(before) or not len(after):
            continue
        back: Content = {"cut-in": "cut-out", "cut-out": "cut-in"}.get(join.content, join.content)  # type: ignore[assignment]
        for first, second in ((before, after), _worn_pair(before, after, random)):
            rows += [pair_features(first, second), pair_features(second[::-1], first[::-1])]
            contents += [CONTENTS.index(join.content), CONTENTS.index(back)]
    features = np.stack(rows) if rows else np.zeros((0, len(_NO_PAIR)), np.float32)
    return torch.from_numpy(features), torch.tensor(contents, dtype=torch.int64)


def _worn_pair(before: Thumbnails, after: Thumbnails, random: np.random.Generator) -> tuple[Thumbnails, Thumbnails]:
    """Two shots in other colours, or mirrored, at times, neither of which changes what they are to each other; and each
    at times as a model makes it or a low rate leaves it: blurred, in blots of false colours."""
    channels = random.permutation(3) if random.random() < 0.5 else np.arange(3)
    way = -1 if random.random() < 0.5 else 1
    shots = []
    for shot in (before, after):
        shot = shot[:, :, ::way, channels]
        if random.random() < 0.4:
            blots = random.normal(0, random.uniform(0, BLOTS), (len(shot), SIDE // 4, SIDE // 4, 3))
            shot = _blurred(shot + blots.repeat(4, 1).repeat(4, 2), random.uniform(0.2, BLURRED))
        shots.append(np.asarray(np.rint(shot.clip(0, 1) * 255) / 255, np.float32))
    return shots[0], shots[1]


def _blurred(pictures: NDArray[np.floating], sigma: float) -> NDArray[np.floating]:
    """Thumbnails [T, S, S, 3] under a Gaussian."""
    apart = np.arange(SIDE)[:, None] - np.arange(SIDE)
    weights = np.exp(-0.5 * (apart / sigma) ** 2)
    weights /= weights.sum(1, keepdims=True)
    return np.asarray(np.einsum("yi,tijc,xj->tyxc", weights, pictures, weights, optimize=True))


_NO_PAIR = pair_features(*np.zeros((2, 1, SIDE, SIDE, 3), np.float32))


def fit_proof(network: ShotNetwork, films: Iterable[tuple[Thumbnails, Sequence[Truth]]]) -> int:
    """Fit what tells cuts from what merely moves, on films [T, S, S, 3] at 16 a second, each as it is and worn; returns
    on how many supposed cuts."""
    chances, lasting, labels = [], [], []
    for number, (film, truth) in enumerate(films):
        cuts = {ceil(one.begin * RATE) for one in truth if one.optical == "cut"}
        for pictures in (film, _worn(film, generator(0, "proof", number))[0]):
            seen = probabilities(network, torch.from_numpy(frame_features(pictures))).numpy()
            supposed = [at for at, _, optical, _ in spans(seen) if optical == "cut"]
            for at in supposed:
                chances.append(float(seen[at, 1]))
                lasting.append(around(pictures, at))
                labels.append(float(at in cuts))
    x, y, z = torch.tensor(chances), torch.from_numpy(np.stack(lasting)), torch.tensor(labels)
    fitted = torch.optim.LBFGS(network.proof.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        fitted.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(network.proven(x, y), z)
        loss = loss + 1e-3 * network.proof.weight.square().sum()
        loss.backward()
        return loss

    fitted.step(closure)
    return len(labels)


def proof_films(config: ShotDetectorConfig) -> Iterator[tuple[Thumbnails, Sequence[Truth]]]:
    """Stories beyond those of the training proper."""
    for number in range(PROOF_FIRST, PROOF_FIRST + config.proof_stories):
        story = sample_story(config.seed, number)
        film = np.stack([thumbnail(frame) for frame in story_frames(story)])
        yield np.asarray(film / 255, np.float32), truths(story)


def export(problem: ShotDetectorProblem, folder: Path) -> dict[str, float]:
    """Write the detector's folder; returns how it does on stories that training never shows."""
    network = problem.network.eval()
    supposed = fit_proof(network, proof_films(problem.config))
    score = score_stories(network, range(64))
    figures = {
        "cut_precision": score.precision("cut"),
        "cut_recall": score.recall("cut"),
        "soft_precision": score.precision("dissolve", "fade"),
        "soft_recall": score.recall("dissolve", "fade"),
    }
    config = problem.config
    trained = {"stories": config.stories, "seed": config.seed, "frames": config.frames}
    trained |= {"proof_stories": config.proof_stories, "supposed_cuts": supposed}
    network.save(folder, {"trained_on": trained, "measured_on_64_stories": score.to_dict()})
    return {name: 100 * value for name, value in figures.items()}
