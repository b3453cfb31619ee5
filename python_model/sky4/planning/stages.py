"""The stages of a request, each a value: what it works on, which networks it needs, and what one call of it costs.

The costs are counted on the pipeline's own code, run without values. Another stage, such as a refiner's, is another
function that returns a `Stage`, put into the list of `stages_of`.

Legend: B = 1, C latent channels, T latent frames, h w latent grid, T_a audio tokens, F frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from math import prod
from typing import Any

import torch

from sky4.conditioning import AudioReferences, VideoReferences
from sky4.conditioning.inpaint import VideoCondition, unconditioned
from sky4.conditioning.keyframes import KeyframePlan, packed
from sky4.conditioning.refiner import assemble_refiner, refiner_velocity
from sky4.conditioning.tiles import Tiling, tiles
from sky4.diffusion.guidance import Guidance, guided
from sky4.diffusion.sampler import State, evaluations
from sky4.encoders.protocols import AudioCodec, VideoCodec
from sky4.geometry import ClipGeometry
from sky4.inputs import TextInput
from sky4.media import probe_audio, probe_image, probe_video
from sky4.ops.cubes import on_device, video_tiling
from sky4.pipeline.economy import NO_ECONOMY, Economy
from sky4.pipeline.given import fitting
from sky4.pipeline.request import ClipRequest
from sky4.pipeline.segments import plan, whole_source
from sky4.pipeline.validate import refined_geometry
from sky4.pipeline.velocity import Conditions, model_velocity
from sky4.pipeline.windows import as_bytes
from sky4.planning.sketch import (
    ModelSketch,
    audio_codec_of,
    idle_units,
    parameters,
    placed,
    video_codec_of,
)
from sky4.planning.trace import HEAP_BLOCK, Cost, traced, without_values

ENCODER_FRAMES = 60  # that a video encoder holds back: its lookahead, its references and what its threads work on


@dataclass(frozen=True)
class Part:
    """A network: its parameters, and the bytes of its weights in memory: all, or the most at once when streamed."""

    name: str
    parameters: int
    bytes: int
    streamed_bytes: int


@dataclass(frozen=True)
class Stage:
    """calls: how often `call` is made for the whole request. held_bytes: of the clip's own data beside the call.

    tokens and shapes are for people.
    """

    name: str
    parts: tuple[str, ...]
    calls: int
    call: Cost
    held_bytes: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def cost(self) -> Cost:
        return self.call.times(self.calls)


@dataclass(frozen=True)
class Setting:
    """Where and how it is computed: "cpu" or "cuda", the networks' dtype, and how memory is saved."""

    device: str
    dtype: torch.dtype
    economy: Economy = NO_ECONOMY


class Networks:
    """The empty networks of a sketch: made on the meta device, then placed where `without_values` says."""

    def __init__(self, sketch: ModelSketch) -> None:
        self.transformer: Any = sketch.transformer()
        self.refiner: Any = sketch.refiner()
        self.video_vae: Any = sketch.video_vae()
        self.audio_vae: Any = sketch.audio_vae()
        self.text_model: Any = sketch.text_model()
        self.device = "meta"
        self._idle = idle_units(sketch.part_folder("audio_codec")) if sketch.weights else frozenset[str]()

    def place(self, device: str, setting: Setting) -> None:
        """All but the text encoder."""
        self.device, self._chunk = device, setting.economy.chunk
        for made, dtype in (
            (self.transformer, setting.dtype),
            (self.refiner, setting.dtype),
            (self.video_vae, setting.dtype),
            (self.audio_vae, torch.float32),
        ):
            if made is not None:
                placed(made, device, dtype)

    def video_codec(self) -> VideoCodec:
        return video_codec_of(self.video_vae, self._chunk)

    @cached_property
    def audio_codec(self) -> AudioCodec:
        return audio_codec_of(self.audio_vae, self._idle)


def parts_of(networks: Networks, dtype: torch.dtype) -> dict[str, Part]:
    """Every network of the model, counted."""
    found = {
        "text_encoder": networks.text_model,
        "video_codec": networks.video_vae,
        "audio_codec": networks.audio_vae,
        "transformer": networks.transformer,
        "refiner": networks.refiner,
    }
    parts = {}
    for name, made in found.items():
        if made is None:
            continue
        size = 4 if name == "audio_codec" else dtype.itemsize
        count = parameters(made)
        at_once = count
        if name in ("transformer", "refiner"):
            depths = [sum(parameters(one) for one in depth) for depth in made.depths()]
            # the depth at work, and the next one, which is read ahead
            at_once = count - sum(depths) + max(a + b for a, b in zip(depths, [*depths[1:], 0], strict=True))
        parts[name] = Part(name, count, count * size, at_once * size)
    return parts


def stages_of(
    request: ClipRequest, geometry: ClipGeometry, sketch: ModelSketch, setting: Setting
) -> tuple[dict[str, Part], list[Stage]]:
    """The networks, and the request's stages in their order. geometry: of what the model makes at once."""
    references = reference_sizes(request, geometry)
    high = None if request.refinement is None else refined_geometry(request.refinement, sketch.folder, geometry)
    networks = Networks(sketch)
    parts = parts_of(networks, setting.dtype)
    if request.refinement is None:
        parts.pop("refiner", None)
    cut = None if high is None else refiner_tiles(high, sketch)
    with without_values("cpu"):  # the libraries' text models look at values, which meta tensors refuse
        text = _text(request, sketch, networks, setting)
    stages = [text]
    with without_values(setting.device) as device:
        networks.place(device, setting)
        if request.runs_video or request.audio is not None or references.audio_tokens:
            stages.append(_conditions(request, geometry, high, references, networks, setting))
        if not leaves_nothing(request):
            stages.append(_base(request, geometry, high, references, text.tokens["text"], networks, setting))
        if high is not None and cut is not None:
            stages.append(_refiner(request, geometry, high, cut, text.tokens["text"], sketch, networks, setting))
        if request.wants_audio or (request.soundtrack is not None and request.soundtrack.mix):
            stages.append(_decode_audio(request, geometry, networks, setting))
        if request.wants_video and (request.video is None or high is not None):
            stages.append(_decode_video(request, high or geometry, networks, setting))
    stages.append(_mux(request, high or geometry))
    return parts, stages


def leaves_nothing(request: ClipRequest) -> bool:
    """Whether every latent that is wanted is given, so that nothing is sampled, as where a clip is only refined."""
    whole = (s for s in request.sources if s.region is None and s.frames == request.frames)
    return not request.wants_audio and (request.video is not None or any(whole))


@dataclass(frozen=True)
class ReferenceSizes:
    """video: (latent frames, height, width in pixels) of each; audio_tokens: of all together."""

    video: tuple[tuple[int, int, int], ...] = ()
    audio_tokens: int = 0


def reference_sizes(request: ClipRequest, geometry: ClipGeometry) -> ReferenceSizes:
    """What the references amount to. RequestError for files that cannot be read."""
    video, audio_tokens = [], 0
    step = geometry.temporal_compression
    for file in request.references:
        if file.kind == "audio":
            samples = min(probe_audio(file.path), float(geometry.seconds)) * geometry.sample_rate
            audio_tokens += int(samples) // geometry.hop
        elif file.kind == "image":
            width, height = fitting(probe_image(file.path), geometry)
            video.append((1, height, width))
        else:
            facts = probe_video(file.path)
            width, height = fitting((facts.width, facts.height), geometry)
            count, lasts = min(request.frames, geometry.frames), round(facts.seconds * request.fps) - file.skip
            latents = geometry.latent_frames if lasts >= count else max(0, lasts - 1) // step + 1
            video.append((latents, height, width))
    return ReferenceSizes(tuple(video) if request.runs_video else (), audio_tokens if request.runs_audio else 0)


def _windows(request: ClipRequest, geometry: ClipGeometry) -> int:
    return len(plan(request, geometry))


def _text(request: ClipRequest, sketch: ModelSketch, networks: Networks, setting: Setting) -> Stage:
    """The prompt and the negative prompt, one row each; what references the encoder itself sees is not counted."""
    model: Any = placed(networks.text_model, "cpu", setting.dtype)
    tokens = sketch.prompt_tokens(request.prompt), sketch.prompt_tokens(request.negative_prompt)

    def encode() -> None:
        for count in tokens:
            ids = torch.zeros(1, count, dtype=torch.int64)
            mask = torch.ones_like(ids)
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
            states.hidden_states[-1].float()

    width = sketch.transformer_config.text_channels
    named = {"text": max(tokens)}
    return Stage(
        "text", ("text_encoder",), 1, traced(encode, "cpu"), 0, named, {"hidden states": (1, max(tokens), width)}
    )


def _conditions(
    request: ClipRequest,
    geometry: ClipGeometry,
    high: ClipGeometry | None,
    references: ReferenceSizes,
    networks: Networks,
    setting: Setting,
) -> Stage:
    """What is given, encoded: a black clip, sources, references, a whole picture or sound."""
    clip = (geometry.latent_frames, geometry.height, geometry.width)
    step, windows = geometry.temporal_compression, _windows(request, geometry)
    encoded = [clip, *references.video] if request.runs_video else []
    if request.video is not None:
        encoded += [clip] * windows
    kept = whole_source(request)
    for source in request.sources:
        if source != kept:
            encoded.append((max(0, min(source.frames, geometry.frames) - 1) // step + 1, *clip[1:]))
    if request.segments is not None and request.wants_video:
        encoded += [(request.segments.overlap // step + 1, *clip[1:])] * windows
    if high is not None and request.sources:  # sources may be given at the refined size too, and then are
        whole = (high.latent_frames, high.height, high.width)
        encoded += [whole, *((max(0, s.frames - 1) // step + 1, *whole[1:]) for s in request.sources)]
    cost = Cost()
    known: dict[tuple[int, int, int], Cost] = {}
    for size in encoded:
        if size not in known:
            known[size] = _encoding(size, step, networks, setting)
        cost = cost.then(known[size])
    parts: tuple[str, ...] = ("video_codec",) if encoded else ()
    heard = references.audio_tokens + (geometry.audio_tokens * windows if request.audio is not None else 0)
    if heard:
        parts += ("audio_codec",)
        wave = torch.empty(1, 2, heard * geometry.hop, device=networks.device)
        cost = cost.then(traced(lambda: networks.audio_codec.encode(wave), setting.device))
    frames = sum((latents - 1) * step + 1 for latents, _, _ in encoded)
    return Stage("conditions", parts, 1, cost, 0, {"frames": frames}, {"pixels": (1, 3, geometry.frames, *clip[1:])})


def _encoding(size: tuple[int, int, int], step: int, networks: Networks, setting: Setting) -> Cost:
    """Of (latent frames, height, width)."""
    codec, (latents, height, width) = networks.video_codec(), size

    def encode(count: int) -> Cost:
        pixels = torch.empty(1, 3, (count - 1) * step + 1, height, width, device=networks.device)
        cost = traced(lambda: codec.encode(pixels), setting.device)
        return _with_peak(cost, pixels.numel() * 4)  # the pixels themselves are made for it

    return _by_length(encode, latents, _chunk(codec, height, width))


def _base(
    request: ClipRequest,
    geometry: ClipGeometry,
    high: ClipGeometry | None,
    references: ReferenceSizes,
    text_tokens: int,
    networks: Networks,
    setting: Setting,
) -> Stage:
    """One evaluation of the velocity, guidance included."""
    model, device = networks.transformer, networks.device
    config, patch = model.config, geometry.patch
    grid = geometry.latent_frames, geometry.latent_height, geometry.latent_width
    video = torch.empty(1, config.video_channels, *grid, device=device) if request.runs_video else None
    audio = torch.empty(1, geometry.audio_tokens, config.audio_channels, device=device) if request.runs_audio else None
    text = TextInput(torch.empty(1, text_tokens, config.text_channels, device=device), None)
    seen = heard = None
    rows = columns = frames = 0
    if references.video:
        frames = sum(size[0] for size in references.video)
        cell = geometry.spatial_compression
        rows, columns = (max(size[side] for size in references.video) // cell for side in (1, 2))
        seen = VideoReferences(torch.empty(1, config.video_channels, frames, rows, columns, device=device))
    if references.audio_tokens:
        heard = AudioReferences(torch.empty(1, references.audio_tokens, config.audio_channels, device=device))
    held = "video" if request.video is not None else "audio" if request.audio is not None else None
    keyframes = _keyframes(request, high, config.video_channels, device)
    state = video
    if keyframes is not None and video is not None:
        state = packed(video, keyframes.noise)
    given = Conditions(
        texts={"positive": text, "negative": text},
        condition=None if video is None else unconditioned(torch.empty_like(video)),
        video_noise=video,
        video_references=seen,
        audio_references=heard,
        rope_scale=geometry.audio_rope_scale_for(config.audio_clock) if audio is not None else None,
        patch=patch,
        held=held,  # type: ignore[arg-type]
        keyframes=keyframes,
    )
    guidance = Guidance(request.guidance, request.audio_guidance, batched=not setting.economy.apart)
    velocity = guided(model_velocity(model, given), guidance)

    def step() -> State:
        moved = velocity((state, audio), (1.0 if held == "video" else 0.5, 1.0 if held == "audio" else 0.5))
        return tuple(  # type: ignore[return-value]
            None if z is None or v is None else z + 0.1 * v.to(z.dtype)
            for z, v in zip((state, audio), moved, strict=True)
        )

    tokens = {"text": text_tokens}
    shapes: dict[str, tuple[int, ...]] = {}
    held_bytes = 0
    if video is not None:
        tokens |= {"video": geometry.video_tokens}
        shapes["video latents"] = tuple(video.shape)
        held_bytes += 4 * video.numel() * 4  # noise, state, condition, mask and what a sampler remembers
    if keyframes is not None:
        tokens |= {"keyframes": keyframes.noise[0, 0].numel() // patch**2}
        shapes["keyframe latents"] = tuple(keyframes.noise.shape)
        held_bytes += 4 * keyframes.noise.numel() * 4
    if seen is not None:
        tokens |= {"video references": frames * (rows // patch) * (columns // patch)}
    if audio is not None:
        tokens |= {"audio": geometry.audio_tokens}
        shapes["audio latents"] = tuple(audio.shape)
    if heard is not None:
        tokens |= {"audio references": references.audio_tokens}
    calls = evaluations(request.sampler, request.steps) * _windows(request, geometry) * request.variations
    return Stage("base", ("transformer",), calls, traced(step, setting.device), held_bytes, tokens, shapes)


def _keyframes(request: ClipRequest, high: ClipGeometry | None, channels: int, device: str) -> KeyframePlan | None:
    if high is None or request.refinement is None or not request.refinement.keyframes:
        return None
    frames = request.refinement.keyframes
    noise = torch.empty(1, channels, len(frames), high.latent_height, high.latent_width, device=device)
    return KeyframePlan(frames, VideoCondition(noise, torch.empty_like(noise[:, :1])), noise)


@dataclass(frozen=True)
class RefinerTiles:
    """How many tiles a step takes, all of one size (T, h, w) in latent cells."""

    count: int
    size: tuple[int, int, int]


def refiner_tiles(high: ClipGeometry, sketch: ModelSketch) -> RefinerTiles:
    """As the refiner cuts them; also makes the order of a tile's cubes, which wants values."""
    entry = sketch.folder.refiner()
    cut = tiles(
        (high.latent_frames, high.latent_height, high.latent_width), Tiling(entry.tile, entry.overlap), high.patch
    )
    frames, rows, columns = (span.end - span.begin for span in cut[0])
    on_device(video_tiling((frames, rows // high.patch, columns // high.patch)), torch.device("cpu"))
    return RefinerTiles(len(cut), (frames, rows, columns))


def _refiner(
    request: ClipRequest,
    geometry: ClipGeometry,
    high: ClipGeometry,
    cut: RefinerTiles,
    text_tokens: int,
    sketch: ModelSketch,
    networks: Networks,
    setting: Setting,
) -> Stage:
    """One tile of one step; under the prompt alone."""
    entry, model, device, patch = sketch.folder.refiner(), networks.refiner, networks.device, high.patch
    assert request.refinement is not None
    noisy = torch.empty(1, model.config.video_channels, *cut.size, device=device)
    condition = VideoCondition(noisy, torch.empty_like(noisy[:, :1]))
    text = TextInput(torch.empty(1, text_tokens, model.config.text_channels, device=device), None)
    time = torch.empty(1, device=device)

    def tile() -> torch.Tensor:
        made = model(assemble_refiner(noisy, condition, time, density=entry.density, patch=patch), text)
        return refiner_velocity(made, noisy, condition, time, patch)

    shape = (model.config.video_channels, high.latent_frames, high.latent_height, high.latent_width)
    # the state, noise, I, the clip before, the sum over the tiles and a step's own: float32
    held = 7 * prod(shape) * 4
    calls = cut.count * request.refinement.steps * _windows(request, geometry) * request.variations
    tokens = {"text": text_tokens, "video": cut.size[0] * (cut.size[1] // patch) * (cut.size[2] // patch)}
    shapes: dict[str, tuple[int, ...]] = {"latents": (1, *shape), "tile": cut.size}
    return Stage("refiner", ("refiner",), calls, traced(tile, setting.device), held, tokens, shapes)


def _decode_audio(request: ClipRequest, geometry: ClipGeometry, networks: Networks, setting: Setting) -> Stage:
    codec = networks.audio_codec
    latents = torch.empty(1, geometry.audio_tokens, codec.channels, device=networks.device)
    call = traced(lambda: codec.decode(latents, geometry.audio_samples), setting.device)
    calls = _windows(request, geometry) * request.variations
    shape = {"wave": (1, 2, geometry.audio_samples)}
    return Stage("decode sound", ("audio_codec",), calls, call, 0, {"audio": geometry.audio_tokens}, shape)


def _decode_video(request: ClipRequest, geometry: ClipGeometry, networks: Networks, setting: Setting) -> Stage:
    codec = networks.video_codec()
    grid = geometry.latent_height, geometry.latent_width

    def decode(count: int) -> Cost:
        latents = torch.empty(1, codec.channels, count, *grid, device=networks.device)

        def frames() -> None:
            for chunk in codec.decode(latents):
                as_bytes(chunk)

        return traced(frames, setting.device)

    call = _by_length(decode, geometry.latent_frames, _chunk(codec, geometry.height, geometry.width))
    calls = _windows(request, geometry) * request.variations
    wave = 2 * geometry.audio_samples * 4 if request.wants_audio else 0
    shape = {"pixels": (1, 3, geometry.frames, geometry.height, geometry.width)}
    named = {"latent frames": geometry.latent_frames}
    return Stage("decode picture", ("video_codec",), calls, call, wave, named, shape)


def _mux(request: ClipRequest, geometry: ClipGeometry) -> Stage:
    """The encoder of the output; counted in pixels, as no operation of ours is in it."""
    width, height = (geometry.width, geometry.height) if request.canvas is None else _sides(request)
    made = geometry.frames if request.segments is None else request.out_frames
    frames = min(request.out_frames, made) if request.wants_video else 0
    pixels = frames * width * height
    held = min(frames, ENCODER_FRAMES) * width * height * 3
    cost = Cost(moved_bytes=3 * pixels, operations=frames, peak_bytes=held, mapped_bytes=held)
    return Stage("mux", (), request.variations, cost, 0, {"frames": frames}, {"frames": (frames, height, width, 3)})


def _sides(request: ClipRequest) -> tuple[int, int]:
    assert request.canvas is not None
    return request.canvas.width, request.canvas.height


def _chunk(codec: VideoCodec, height: int, width: int) -> int:
    """Latent frames that the codec takes at once."""
    chosen: Callable[[int, int], int] | None = getattr(codec, "_latent_frames", None)
    return 3 if chosen is None else chosen(height, width)


def _by_length(cost_of: Callable[[int], Cost], latents: int, chunk: int) -> Cost:
    """The cost for so many latent frames, of which `chunk` are taken at once behind a first one.

    From the third chunk on each costs what the one before did, so that long clips are counted on short ones.
    """
    short, long = 1 + 2 * chunk, 1 + 3 * chunk
    if latents <= long:
        return cost_of(latents)
    first, second = cost_of(short), cost_of(long)
    chunks = (latents - short) / chunk
    return Cost(
        **{
            f.name: round(getattr(first, f.name) + chunks * (getattr(second, f.name) - getattr(first, f.name)))
            for f in fields(Cost)
        }
    )


def _with_peak(cost: Cost, beside: int) -> Cost:
    """Where so many bytes, in one block, are alive beside it."""
    where = ("peak_bytes", "heap_bytes" if beside <= HEAP_BLOCK else "mapped_bytes")
    return replace(cost, **{name: getattr(cost, name) + beside for name in where})
