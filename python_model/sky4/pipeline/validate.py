"""What can be said against a request before any weight is loaded: its @names, its sizes, its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from sky4.errors import RequestError
from sky4.geometry import ClipGeometry
from sky4.media import check_continuable, check_soundtrack, kept_sound, probe_audio, probe_image, probe_video
from sky4.media.mask_frames import check_region
from sky4.pipeline.canvas import footage_of
from sky4.pipeline.model_folder import ModelFolder
from sky4.pipeline.refinement import Refinement
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.segments import check_segments, whole_source
from sky4.pipeline.speakers import check_regions
from sky4.prompting import check_prompt, require_clean

T = TypeVar("T")


def validate(request: ClipRequest, model: ModelFolder) -> ClipGeometry:
    """Check the request against the model and its input files; returns the sizes of what the model makes at once.

    RequestError, naming flag, value and remedy, for whatever would fail later.
    """
    if request.prompt.strip():
        require_clean(request.prompt, request.names)
    if request.negative_prompt.strip():
        require_clean(request.negative_prompt, request.names)
    frames = request.frames if request.segments is None else request.segments.frames
    geometry = model.geometry(request.width, request.height, frames, request.fps)
    check_segments(request, geometry)
    if request.refinement is not None:
        _check_refine(request.refinement, model, geometry)
    if request.runs_audio and geometry.audio_tokens == 0:
        raise RequestError(
            f"--frames {frames} at {request.fps} frames a second is shorter than the least sound of "
            f"{geometry.hop} samples; ask for more frames, or --only video"
        )
    _check_files(request)
    return geometry


def refined_geometry(refinement: Refinement, model: ModelFolder, geometry: ClipGeometry) -> ClipGeometry:
    """The sizes of what is made at once, refined. RequestError for a size that the codec cannot make."""
    frames = (geometry.frames - 1) * refinement.rate + 1
    return model.geometry(refinement.width, refinement.height, frames, geometry.fps * refinement.rate, refinement.flag)


def _check_refine(refinement: Refinement, model: ModelFolder, geometry: ClipGeometry) -> None:
    entry = model.refiner(refinement.flag)
    if entry.transformer.patch != model.manifest.transformer.patch:
        raise RequestError(
            f"{refinement.flag}: the refiner of --model {model.path} has another patch than its transformer"
        )
    refined_geometry(refinement, model, geometry)
    beyond = [frame for frame in refinement.keyframes if frame >= geometry.latent_frames]
    if beyond:
        last = geometry.latent_frames - 1
        raise RequestError(f"--keyframes: {beyond[0]} is outside the latent frames 0 to {last} that are made at once")


def check_sound(request: ClipRequest, out: Path) -> None:
    """Refuse a soundtrack that `out` could not hold, or that could not go on in made sound. RequestError."""
    track, segments, source = request.soundtrack, request.segments, whole_source(request)
    if track is None:
        return
    if track.mix or segments is None or source is None or not request.wants_audio:
        check_soundtrack(track, request.seconds, out)
        return
    kept, otherwise = source.frames / request.fps, "add --encode-audio, which has all of the sound encoded anew"
    check_continuable(track.path, track.skip_seconds, kept, out, otherwise, segments.backward)


def warnings(request: ClipRequest, model: ModelFolder, geometry: ClipGeometry) -> list[str]:
    """What is worth saying about a request that can be served: of its prompt, and where it leaves what was trained.

    geometry: what the model makes at once, as `validate` returned it.
    """
    implied = [reference.name for reference in request.references if reference.implied]
    faults = check_prompt(request.prompt, request.names, implied) if request.prompt.strip() else []
    said = [str(fault) for fault in faults if fault.severity == "warning"]
    trained, given = model.manifest.trained_references, len(request.references)
    if given > trained:
        said.append(f"{given} references are given and the model was trained with up to {trained}; it may mix them")
    frames = min(request.frames, geometry.frames)
    if frames > model.defaults.frames and not request.only_refines:
        said.append(
            f"{frames} frames are made at once and the model was trained on up to {model.defaults.frames}; "
            "what comes later may be worse"
        )
    for reference in request.references:
        flag = f"--ref {reference.name}"
        if reference.kind != "image" and not reference.implied:
            lasts, read = _seconds(flag, reference.kind, reference.path), float(frames / request.fps)
            if lasts > read + 0.1:
                said.append(f"{flag} lasts {lasts:.1f} s; its first {read:.1f} s are read, as much as is made at once")
    return said


def seconds_of(flag: str, path: Path) -> float:
    """How long a given video (--video) or sound (--audio) lasts. RequestError where it cannot be decoded."""
    return _seconds(flag, "video" if flag == "--video" else "audio", path)


def _seconds(flag: str, kind: Literal["video", "audio"], path: Path) -> float:
    return float(_named(flag, probe_video, path).seconds) if kind == "video" else _named(flag, probe_audio, path)


def _check_files(request: ClipRequest) -> None:
    for source in request.sources:
        if source.is_picture:
            _named(source.flag, probe_image, source.path)
        else:
            facts = _named(source.flag, probe_video, source.path)
            needs = (source.skip + source.frames) / request.fps
            _long_enough(source.flag, source.path, float(facts.seconds), float(needs))
        if source.region is not None:
            check_region(source.region, footage_of(source, request.fps), source.path)
    for reference in request.references:
        probe = {"image": probe_image, "video": probe_video, "audio": probe_audio}[reference.kind]
        _named(f"--ref {reference.name}", probe, reference.path)
    if request.video is not None:
        facts = _named("--video", probe_video, request.video)
        _long_enough("--video", request.video, float(facts.seconds), float(request.seconds))
    if request.soundtrack is not None:
        kept_sound(request.soundtrack, request.seconds)
    if request.audio is not None:
        seconds = _named("--audio", probe_audio, request.audio)
        _long_enough("--audio", request.audio, seconds, float(request.seconds))
    if request.speakers:
        lasts = {speaker.flag: _named(speaker.flag, probe_audio, speaker.path) for speaker in request.speakers}
        longest = max(request.speakers, key=lambda speaker: lasts[speaker.flag])  # the others are silent where they end
        _long_enough(longest.flag, longest.path, lasts[longest.flag], float(request.seconds))
        check_regions(request)


def _long_enough(flag: str, path: Path, has: float, needs: float) -> None:
    # a frame's tolerance: containers round their lengths
    if has + 0.1 < needs:
        raise RequestError(f"{flag} {path} lasts {has:.2f} s and the clip {needs:.2f} s; ask for --seconds {has:.2f}")


def _named(flag: str, probe: Callable[[Path], T], path: Path) -> T:
    try:
        return probe(path)
    except RequestError as error:
        raise RequestError(f"{flag}: {error}") from error
