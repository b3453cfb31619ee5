"""From a request to a clip: the one centre of every task.

text -> keep mask, condition latents, references -> sampling -> latents, refined where the request says so, from which
frames and sound are decoded; in windows that continue one another where the request says so, else in one.

Legend: B = 1, C latent channels, T latent frames, h w latent grid, T_a audio tokens, F frames, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor

from sky4.conditioning import ShotSwitch
from sky4.conditioning.inpaint import VideoCondition, restore_kept
from sky4.conditioning.keyframes import packed, unpacked
from sky4.conditioning.refiner import KeyframeLatents
from sky4.conditioning.reprojection import ShotGuess, guess_shot
from sky4.conditioning.voices import Voice
from sky4.diffusion.guidance import Guidance, guided
from sky4.diffusion.noise import noise
from sky4.diffusion.sampler import Modality, Moment, Schedule, State, sample, schedule
from sky4.encoders.another_shot import encoded_still
from sky4.encoders.protocols import Reference, TextEncoder, VideoCodec
from sky4.errors import Sky4Failure
from sky4.geometry import ClipGeometry
from sky4.inputs import TextInput
from sky4.ops.backend import use_backend
from sky4.pipeline.clip import Clip, Progress
from sky4.pipeline.components import Components, give_back
from sky4.pipeline.given import (
    Continued,
    given_audio,
    given_frames,
    given_video,
    references,
    shown_references,
    to_pixels,
    video_condition,
    voices_of,
)
from sky4.pipeline.refine import HighGrid, high_grid, keyframe_plan, refined, refining_start
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.segments import Window, in_window, plan
from sky4.pipeline.speakers import heard
from sky4.pipeline.states import ClipStates, NoStates, ResumeFolder
from sky4.pipeline.validate import validate
from sky4.pipeline.velocity import Conditions, model_velocity
from sky4.pipeline.windows import Frames, MadeWindow, continued_on, kept_again, overlap_of_source
from sky4.prompting import in_prompt_order, parse

Seen = Callable[[ClipRequest, Window, Moment, Schedule], None]  # what is told of each step of a clip's window


def generate_clip(request: ClipRequest, components: Components, progress: Progress | None = None) -> Clip:
    """Make one clip's latents; frames and sound are decoded when the clip is asked for them.

    RequestError for what cannot be made, Sky4Failure for weights that do not fit and latents that are not finite.
    """
    return next(generate_clips(replace(request, variations=1), components, progress))


def generate_clips(
    request: ClipRequest,
    components: Components,
    progress: Progress | None = None,
    states: ResumeFolder | None = None,
    seen: Seen | None = None,
) -> Iterator[Clip]:
    """The request's variations, one after the other, with the seeds seed, seed + 1, ...

    One at a time: kernels round differently for other batch sizes, and the same seed must make the same bits alone.

    states: where the state of each is kept while it is made, and gone on from; clips that it knows to be written are
    left out. seen: is told of each step.
    """
    say, see = progress or _silent, seen or _unseen
    geometry = validate(request, components.folder)
    with _computing(components, request):
        shared = _shared(request, geometry, components, say)
    for index in range(request.variations):
        one = request.variation(index)
        state = NoStates() if states is None else states.clip(one)
        if state.written is not None:
            continue
        with _computing(components, request):
            made = _windows(one, geometry, shared, components, say, state, see)
        yield Clip(one, geometry, components, made)


def _windows(
    request: ClipRequest,
    geometry: ClipGeometry,
    shared: Conditions,
    components: Components,
    say: Progress,
    state: ClipStates | NoStates,
    see: Seen,
) -> tuple[MadeWindow, ...]:
    """The clip's windows, each continuing what is shown of the one before, or of the source that the clip extends."""
    windows = plan(request, geometry)
    shows = request.wants_video and request.video is None  # else there are no made pictures to continue
    overlap = request.segments.overlap if request.segments is not None and shows else 0
    made, kept = state.windows(windows)
    shown = [one for one in made if not one.window.anchor]
    if not shown and shows:
        kept = overlap_of_source(request, geometry)
    elif shown and kept is None and overlap and len(made) < len(windows):  # they were lost
        if request.refinement is not None:  # what is decoded of a refined window is not what was kept
            made, kept = [], overlap_of_source(request, geometry)
        else:
            kept = kept_again(made[-1], overlap, components)
    for window in windows[len(made) :]:
        end = None if window.ends_on is None else made[window.ends_on].latents[0]
        given = _given(window, kept, end, shared.film, request, geometry, components, say)
        latents, keyframes = _sampled(window, given, shared, request, geometry, components, say, state, see)
        components.only("video_codec", "audio_codec")
        ends = window.anchor or window.index + 1 == len(windows)  # nothing goes on from it
        one, kept = continued_on(MadeWindow(window, latents), kept, 0 if ends else overlap, components)
        if given.high is not None and latents[0] is not None:
            text = shared.texts["positive"]
            inside = in_window(request, window)
            enlarges = given.high.enlarged(components.folder)
            own = given_frames(inside, geometry, window.first) if enlarges else None
            start = refining_start(latents[0], own, given.high, components)
            components.only("refiner")
            high = refined(start, keyframes, given.high, text, components, request.seed, window.index, say, state)
            components.only("video_codec", "audio_codec")
            one = replace(one, latents=(high, latents[1]), rate=given.high.refinement.rate)
            if not inside.shows_given and keyframes is None and given.high.held(components.folder):
                one = replace(one, low=latents[0])
        state.finish_window(one, kept)
        made.append(one)
        if len(windows) > 1:
            give_back(components.device)  # what is kept lies among what is free, which else grows from window to window
    return tuple(made)


def _shared(request: ClipRequest, geometry: ClipGeometry, components: Components, say: Progress) -> Conditions:
    """What all variations and windows share: the texts and the references."""
    say("reading the prompt", 0, 1)
    files = in_prompt_order(request.references, parse(request.prompt, [file.name for file in request.references])[0])
    components.only("text_encoder")
    texts = _texts(request, geometry, components)
    say("reading the prompt", 1, 1)
    components.only("video_codec", "audio_codec")
    config = components.folder.manifest.transformer
    video_codec = components.video_codec if request.runs_video else None
    audio_codec = components.audio_codec if request.runs_audio else None
    seen, heard, film = references(files, request, geometry, video_codec, audio_codec)
    scale = geometry.audio_rope_scale_for(config.audio_clock) if audio_codec else None
    return Conditions(
        texts={"positive": texts[0], "negative": texts[1]},
        condition=None,
        video_noise=None,
        video_references=seen,
        audio_references=heard,
        rope_scale=scale,
        patch=geometry.patch,
        film=film if request.segments is None else None,
    )


@dataclass(frozen=True)
class _Given:
    """What a window is given: kept latents and their mask, the latents of the modality that is given whole, the grid
    that it is refined to, and the voices of its regions."""

    condition: VideoCondition | None
    video: Tensor | None
    audio: Tensor | None
    high: HighGrid | None
    voices: tuple[Voice, ...]

    def leaves_nothing(self, request: ClipRequest) -> bool:
        """Whether every latent that is wanted is given, so that there is nothing to sample."""
        if request.wants_audio or (self.high is not None and self.high.refinement.keyframes):
            return False
        return self.video is not None or (self.condition is not None and bool((self.condition.keep_mask > 0.5).all()))


def _given(
    window: Window,
    kept: Frames | None,
    anchor: Tensor | None,
    film: Tensor | None,
    request: ClipRequest,
    geometry: ClipGeometry,
    components: Components,
    say: Progress,
) -> _Given:
    """kept: the frames that it keeps; anchor: the latents [1, C, T, h, w] whose last frame it ends on."""
    say("conditions", 0, 1)
    components.only("video_codec", "audio_codec")
    condition = video = audio = high = None
    voices: tuple[Voice, ...] = ()
    inside = in_window(request, window)
    if request.runs_video:
        continued = None if kept is None else Continued(kept, window.backward)
        condition = video_condition(
            inside,
            geometry,
            components.video_codec,
            continued,
            guided=request.video is None and not inside.only_refines and components.folder.manifest.transformer.guide,
            film=film,
            end=None if anchor is None else anchor[:, :, -1:],
            switch=_switch(window, geometry),
            guess=_guess(request, window, kept, components.video_codec),
        )
        high = high_grid(inside, geometry, components)
    if request.video is not None:
        video = given_video(request.video, request, geometry, components.video_codec, window.first)
    begin, end = (Fraction(frame) / geometry.fps for frame in (window.first, window.first + geometry.frames))
    wave = heard(request, geometry.sample_rate, begin, end)
    if wave is not None:
        audio = given_audio(wave, geometry, components.audio_codec)
        voices = voices_of(request, geometry, components.audio_codec, window.first)
    say("conditions", 1, 1)
    return _Given(condition, video, audio, high, voices)


def _switch(window: Window, geometry: ClipGeometry) -> ShotSwitch | None:
    return None if window.switch is None else ShotSwitch.at(geometry, window.switch)


def _guess(request: ClipRequest, window: Window, kept: Frames | None, codec: VideoCodec) -> ShotGuess | None:
    """What the shot that begins in a window may look like, from the frames before it; None where none begins."""
    segments = request.segments
    if segments is None or segments.transition == "none" or kept is None or not window.begins_a_shot:
        return None
    return guess_shot(to_pixels(kept), [segments.transition], partial(encoded_still, codec=codec))


def _texts(request: ClipRequest, geometry: ClipGeometry, components: Components) -> tuple[TextInput, TextInput]:
    """Hidden states under the prompt and under the negative prompt, one row each."""
    encoder: TextEncoder = components.text_encoder
    shown: list[Reference] = []
    if components.folder.manifest.text_encoder.sees_references:
        shown = shown_references(request.references, request, geometry)
    return encoder.encode([request.prompt], shown), encoder.encode([request.negative_prompt])


def _sampled(
    window: Window,
    given: _Given,
    shared: Conditions,
    request: ClipRequest,
    geometry: ClipGeometry,
    components: Components,
    say: Progress,
    state: ClipStates | NoStates,
    see: Seen,
) -> tuple[State, KeyframeLatents | None]:
    """((video latents [1, C, T, h, w], audio latents [1, T_a, C]), the keyframes of the refined clip), float32.

    None where a tower does not run and where no keyframes are made.
    """
    if given.leaves_nothing(request):
        return (given.condition.latents if given.video is None and given.condition else given.video, given.audio), None
    channels, device = components.folder.manifest.transformer.video_channels, components.device
    video_noise = audio_noise = plan = None
    if request.runs_video:
        shape = (channels, geometry.latent_frames, geometry.latent_height, geometry.latent_width)
        video_noise = noise(shape, request.seed, "video", window.index)[None].to(device)
        size = geometry.frames, geometry.height, geometry.width
        black = partial(components.video_codec.black, *size)
        plan = keyframe_plan(given.high, black, channels, request.seed, window.index)
    if request.runs_audio:
        tokens = (geometry.audio_tokens, components.folder.manifest.transformer.audio_channels)
        audio_noise = noise(tokens, request.seed, "audio", window.index)[None].to(device)
    guidance = Guidance(request.guidance, request.audio_guidance, batched=not components.economy.apart)
    held: Modality | None = "video" if given.video is not None else "audio" if given.audio is not None else None
    conditions = replace(
        shared,
        condition=given.condition,
        video_noise=video_noise,
        held=held,
        start=float(window.time),
        keyframes=plan,
        switch=_switch(window, geometry),
        voices=given.voices,
    )
    video = video_noise if given.video is None else given.video
    if plan is not None and video is not None:
        video = packed(video, plan.noise)
    components.only("transformer")
    stage = f"sampling {window.index + 1}" if window.index else "sampling"
    times = schedule(request.steps, request.shift, hold=held)
    start: State = video, audio_noise if given.audio is None else given.audio
    with state.sampling(f"window {window.index}", start, request.steps) as keeping:

        def passed(step: int, steps: int, moment: Moment) -> None:
            keeping.passed(moment)
            say(stage, step, steps)
            see(request, window, _whole(moment, conditions), times)

        say(stage, keeping.resumed.step if keeping.resumed is not None else 0, request.steps)
        video, audio = sample(
            guided(model_velocity(components.transformer, conditions), guidance),
            start,
            times,
            request.sampler,
            on_step=passed,
            resumed=keeping.resumed,
        )
    keyframes = None
    if plan is not None and given.high is not None and video is not None and video_noise is not None:
        video, latents = unpacked(video, video_noise.shape, plan.noise.shape)
        rate = given.high.refinement.rate
        keyframes = KeyframeLatents(restore_kept(latents, plan.condition), tuple(rate * at for at in plan.frames))
    if video is not None and conditions.condition is not None:
        video = restore_kept(conditions.condition.whole(video), conditions.condition)
    return (video, audio), keyframes


def _whole(moment: Moment, conditions: Conditions) -> Moment:
    """The moment with its video's latents whole, where the model makes a difference, and without keyframes."""
    video, audio = moment.latents
    if video is None:
        return moment
    if conditions.keyframes is not None and conditions.video_noise is not None:
        video, _ = unpacked(video, conditions.video_noise.shape, conditions.keyframes.noise.shape)
    if conditions.condition is not None:
        video = conditions.condition.whole(video)
    return replace(moment, latents=(video, audio))


@contextmanager
def _computing(components: Components, request: ClipRequest) -> Iterator[None]:
    """Without gradients, on the chosen attention, with convolutions that give the same bits each time.

    Out of memory becomes a sentence that names the flags to change.
    """
    try:
        tf32 = torch.backends.cudnn.allow_tf32
        with (
            torch.inference_mode(),
            use_backend(components.backend),
            torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=tf32),
        ):
            yield
    except torch.OutOfMemoryError as error:
        raise Sky4Failure(
            f"{components.device} ran out of memory at --size {request.width}x{request.height} and {request.frames} "
            "frames; lower either, or use --device cpu"
        ) from error


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _unseen(request: ClipRequest, window: Window, moment: Moment, times: Schedule) -> None:
    pass
