"""latent_assemble against float64 compositions of torch.nn.functional.interpolate, and its refusals.

B batch, C latent channels, T -> T2 latent frames, h, w -> H, W latent grid, K keyframes.
"""

import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sky4.ops.backend
from sky4 import _C
from sky4.ops.assemble_reference import latent_assemble_reference
from sky4.ops.latent_assemble import latent_assemble


@dataclass(frozen=True)
class Case:
    low: Tensor
    noise: Tensor
    keyframes: Tensor | None
    keyframe_indices: Tensor | None
    source: Tensor | None
    source_mask: Tensor | None

    def assemble(self, backend="cpu"):
        return latent_assemble(**vars(self), backend=backend)

    def native(self, out=None):
        """The bare binding, which must defend itself."""
        given = vars(self)
        out = torch.empty_like(torch.cat([self.noise, self.noise], 1)) if out is None else out
        _C.latent_assemble(**given, out=out)
        return out


def make(low=(2, 3, 3, 4, 5), target=(5, 8, 10), keyframes=(1, 4), dtype=torch.float32, mask_dtype=torch.bool, seed=0):
    generator = torch.Generator().manual_seed(seed)
    B, C = low[:2]
    K = len(keyframes)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    mask = torch.rand(B, 1, *target, generator=generator) < 0.4
    return Case(
        low=normal(*low),
        noise=normal(B, C, *target),
        keyframes=normal(B, C, K, *target[1:]),
        keyframe_indices=torch.tensor(keyframes, dtype=torch.int64),
        source=normal(B, C, *target),
        source_mask=mask.to(mask_dtype),
    )


def oracle(case: Case) -> Tensor:
    """Float64 throughout: bilinear in space, then linear in time, by torch's own interpolation."""
    low, noise = case.low.double(), case.noise.double()
    B, C, T, h, w = low.shape
    T2, H, W = noise.shape[2:]
    flat = low.reshape(B * C * T, 1, h, w)
    wide = F.interpolate(flat, size=(H, W), mode="bilinear", align_corners=False).reshape(B, C, T, H, W)
    series = wide.permute(0, 1, 3, 4, 2).reshape(B, C * H * W, T)
    timed = F.interpolate(series, size=T2, mode="linear", align_corners=True).reshape(B, C, H, W, T2)
    condition = timed.permute(0, 1, 4, 2, 3).clone()
    if case.keyframes is not None:
        for k, frame in enumerate(case.keyframe_indices.tolist()):
            condition[:, :, frame] = case.keyframes[:, :, k].double()
    if case.source is not None:
        keep = (case.source_mask == 1).expand_as(condition)
        condition[keep] = case.source.double()[keep]
    return torch.cat([noise, condition], 1)


GRIDS = [
    ((2, 3, 3, 4, 5), (5, 8, 10)),  # the refiner's own: T -> 2T - 1, space doubled
    ((1, 2, 5, 7, 9), (9, 17, 23)),  # odd everywhere
    ((1, 1, 4, 6, 5), (9, 6, 5)),  # only time, and not 2T - 1
    ((1, 2, 6, 9, 8), (3, 5, 3)),  # smaller than what came
    ((1, 2, 1, 1, 1), (3, 4, 5)),  # one cell becomes many
    ((2, 1, 3, 4, 4), (1, 1, 1)),  # many become one
    ((1, 4, 9, 24, 40), (17, 48, 80)),  # enough for several threads
]


@pytest.mark.parametrize(("low", "target"), GRIDS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_float32_equals_the_float64_composition(low, target, backend):
    case = make(low, target, keyframes=(0, target[0] - 1)[: target[0]])
    torch.testing.assert_close(case.assemble(backend).double(), oracle(case), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("low", "target"), GRIDS)
def test_bfloat16_is_rounded_once(low, target):
    case = make(low, target, keyframes=(0,), dtype=torch.bfloat16)
    exact = oracle(case)
    # Half a unit in the last place of bfloat16's 8 bits, and float32's own errors of the arithmetic before it.
    bound = exact.abs() * 2.0**-8 + 1e-6
    assert ((case.assemble().double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("low", "target"), GRIDS)
def test_kernel_and_reference_give_the_same_bits(low, target, dtype):
    case = make(low, target, keyframes=(target[0] // 2,), dtype=dtype)
    assert torch.equal(case.assemble("cpu"), case.assemble("reference"))


def test_noise_comes_first_and_is_copied():
    case = make()
    assert torch.equal(case.assemble()[:, :3], case.noise)


def test_even_frames_of_a_doubled_rate_are_the_low_frames():
    case = replace(
        make((1, 2, 4, 5, 6), (7, 5, 6)), keyframes=None, keyframe_indices=None, source=None, source_mask=None
    )
    condition = case.assemble()[:, 2:]
    assert torch.equal(condition[:, :, ::2], case.low)
    torch.testing.assert_close(condition[:, :, 1::2], (case.low[:, :, 1:] + case.low[:, :, :-1]) / 2)


def test_keyframes_replace_and_the_source_replaces_both():
    case = make(keyframes=(3, 1))
    condition = case.assemble()[:, 3:]
    keep = case.source_mask.expand_as(condition)
    assert torch.equal(condition[keep], case.source[keep])
    for k, frame in enumerate((3, 1)):
        shown, wanted, free = condition[:, :, frame], case.keyframes[:, :, k], ~keep[:, :, frame]
        assert torch.equal(shown[free], wanted[free])


def test_no_keyframes_is_an_empty_list_of_keyframes():
    case = make(keyframes=())
    absent = replace(case, keyframes=None, keyframe_indices=None)
    for backend in ("cpu", "reference"):
        assert torch.equal(case.assemble(backend), absent.assemble(backend))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_of_numbers_takes_the_source_at_exactly_one(dtype):
    case = make(dtype=dtype, mask_dtype=dtype)
    assert torch.equal(case.assemble(), replace(case, source_mask=case.source_mask == 1).assemble())
    nearly = replace(case, source_mask=case.source_mask * 0.5)
    without = replace(case, source=None, source_mask=None)
    assert torch.equal(nearly.assemble(), without.assemble())


def test_cut_expanded_and_transposed_inputs_are_read_as_they_lie():
    case = make()
    awkward = Case(
        low=case.low.transpose(3, 4).contiguous().transpose(3, 4),
        noise=torch.cat([case.noise, case.noise], 4)[..., : case.noise.shape[4]],
        keyframes=case.keyframes.permute(2, 0, 1, 3, 4).contiguous().permute(1, 2, 0, 3, 4),
        keyframe_indices=case.keyframe_indices.repeat_interleave(2)[::2],
        source=case.source[:, :1].expand_as(case.source),
        source_mask=case.source_mask[:1, :, :1].expand_as(case.source_mask),
    )
    straight = Case(*[x.contiguous() for x in vars(awkward).values()])
    assert torch.equal(awkward.assemble(), straight.assemble("reference"))


def test_infinities_survive_bfloat16():
    case = replace(make(dtype=torch.bfloat16), source=None, source_mask=None)
    case.low[0, 0, 0, 0, 0] = float("inf")
    case.low[0, 1, 0, 0, 0] = float("nan")
    native, reference = case.assemble("cpu"), case.assemble("reference")
    assert torch.equal(native.isnan(), reference.isnan())
    assert torch.equal(native.isinf(), reference.isinf())
    assert native.isnan().any()


def test_reference_has_gradients():
    case = make((1, 1, 2, 2, 2), (3, 3, 3), keyframes=(1,))
    inputs = [x.double().requires_grad_() for x in (case.low, case.noise, case.keyframes, case.source)]

    def run(low, noise, keyframes, source):
        return latent_assemble_reference(low, noise, keyframes, case.keyframe_indices, source, case.source_mask)

    assert torch.autograd.gradcheck(run, inputs)
    low = case.low.requires_grad_()
    assert case.assemble("auto").requires_grad
    with pytest.raises(ValueError, match="no backward"):
        replace(case, low=low).assemble("cpu")
    with torch.no_grad():
        assert torch.equal(case.assemble("cpu"), case.assemble("reference"))


def test_numpy_arrays_pass_the_door_too():
    case = make()
    arrays = {name: x.numpy() for name, x in vars(case).items()}
    out = np.empty((2, 6, 5, 8, 10), dtype=np.float32)
    _C.latent_assemble(**arrays, out=out)
    assert torch.equal(torch.from_numpy(out), case.assemble("reference"))


def test_the_operator_keeps_torch_s_contract():
    torch.library.opcheck(torch.ops.sky4.latent_assemble.default, tuple(vars(make()).values()))


def test_it_compiles_without_a_break():
    case = make()
    compiled = torch.compile(latent_assemble, backend="eager", fullgraph=True)
    assert torch.equal(compiled(**vars(case)), case.assemble("reference"))


def test_the_number_of_threads_changes_nothing(monkeypatch):
    case = make((1, 4, 9, 24, 40), (17, 48, 80))
    usual = case.assemble()
    monkeypatch.setenv("SKY4_THREADS", "1")
    assert torch.equal(case.assemble(), usual)
    for wrong in ("0", "-2", "many", "2x"):
        monkeypatch.setenv("SKY4_THREADS", wrong)
        with pytest.raises(ValueError, match=f"SKY4_THREADS is '{wrong}'"):
            case.assemble()


BAD = [
    ("low", lambda x: x.double(), TypeError, "low has dtype torch.float64"),
    ("low", lambda x: x[0], ValueError, r"low has shape \[3, 3, 4, 5\], expected five axes"),
    ("low", lambda x: x[:, :, :0], ValueError, r"low has shape \[2, 3, 0, 4, 5\]"),
    ("noise", lambda x: x.bfloat16(), TypeError, "noise has dtype torch.bfloat16, expected torch.float32"),
    ("noise", lambda x: x[:, :2], ValueError, r"noise has shape \[2, 2, 5, 8, 10\], expected \[2, 3, 5, 8, 10\]"),
    ("noise", lambda x: x.to("meta"), TypeError, "noise is on device meta, expected cpu"),
    (
        "keyframes",
        lambda x: x[..., :-1],
        ValueError,
        r"keyframes has shape \[2, 3, 2, 8, 9\], expected \[2, 3, 2, 8, 10",
    ),
    ("keyframes", lambda x: None, ValueError, "come together"),
    ("keyframe_indices", lambda x: x.int(), TypeError, "keyframe_indices has dtype torch.int32, expected torch.int64"),
    ("keyframe_indices", lambda x: x[None], ValueError, "keyframe_indices has 2 axes, expected 1"),
    ("keyframe_indices", lambda x: x + 1, ValueError, "keyframe_indices holds 5, expected 0 to 4"),
    ("keyframe_indices", lambda x: x - 2, ValueError, "keyframe_indices holds -1, expected 0 to 4"),
    ("keyframe_indices", lambda x: x * 0, ValueError, "keyframe_indices holds 0 twice"),
    ("source", lambda x: x[:1], ValueError, r"source has shape \[1, 3, 5, 8, 10\], expected \[2, 3, 5, 8, 10\]"),
    ("source_mask", lambda x: x.to(torch.uint8), TypeError, "source_mask has dtype torch.uint8"),
    (
        "source_mask",
        lambda x: x.expand(2, 3, 5, 8, 10),
        ValueError,
        r"source_mask has shape \[2, 3, .*\[2, 1, 5, 8, 10\]",
    ),
    ("source_mask", lambda x: None, ValueError, "come together"),
]


@pytest.mark.parametrize(("name", "spoil", "error", "message"), BAD)
@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
def test_bad_arguments_are_named_with_both_numbers(name, spoil, error, message, backend):
    case = make()
    spoilt = replace(case, **{name: spoil(getattr(case, name))})
    with pytest.raises(error, match=message):
        spoilt.assemble(backend)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'magic' is not available: choose one of auto, cuda, cpu, torch, reference"):
        make().assemble("magic")


NATIVE_BAD = [
    (
        "low",
        lambda x: x.double(),
        TypeError,
        "low has dtype float64, expected float32, bfloat16, float16, int32, int64 or bool",
    ),
    ("low", lambda x: x.long(), TypeError, "low has dtype int64, expected float32 or bfloat16"),
    ("low", lambda x: "latents", TypeError, "low is a str, expected a tensor"),
    ("low", lambda x: x[0], ValueError, "low has 4 axes, expected 5"),
    ("low", lambda x: x[:0], ValueError, r"low has shape \[0, 3, 3, 4, 5\], expected at least one element"),
    ("low", lambda x: x.transpose(3, 4), ValueError, "low has stride 5 along its last axis, expected 1"),
    ("low", lambda x: x[(None,) * 4], ValueError, "low has 9 axes, expected at most 8"),
    ("noise", lambda x: x.bfloat16(), TypeError, "noise has dtype bfloat16, expected float32"),
    ("noise", lambda x: x[:, :2], ValueError, r"noise has shape \[2, 2, 5, 8, 10\], expected \[2, 3, 5, 8, 10\]"),
    ("keyframes", lambda x: x[:, :, :1], ValueError, r"keyframes has shape \[2, 3, 1, 8, 10\], expected \[2, 3, 2, 8"),
    ("keyframes", lambda x: None, ValueError, "come together"),
    ("keyframe_indices", lambda x: x.float(), TypeError, "keyframe_indices has dtype float32, expected int64"),
    ("keyframe_indices", lambda x: x + 1, ValueError, "keyframe_indices holds 5, expected 0 to 4"),
    ("keyframe_indices", lambda x: x - 2, ValueError, "keyframe_indices holds -1, expected 0 to 4"),
    ("keyframe_indices", lambda x: x * 0, ValueError, "keyframe_indices holds 0 twice"),
    ("source", lambda x: x[..., ::2], ValueError, r"source has shape \[2, 3, 5, 8, 5\], expected \[2, 3, 5, 8, 10\]"),
    ("source_mask", lambda x: x.long(), TypeError, "source_mask has dtype int64, expected bool or float32"),
    (
        "source_mask",
        lambda x: x[:, 0],
        ValueError,
        r"source_mask has shape \[2, 5, 8, 10\], expected \[2, 1, 5, 8, 10\]",
    ),
]


@pytest.mark.parametrize(("name", "spoil", "error", "message"), NATIVE_BAD)
def test_the_bare_binding_refuses_instead_of_crashing(name, spoil, error, message):
    case = make()
    out = torch.full((2, 6, 5, 8, 10), 7.0)
    with pytest.raises(error, match=f"latent_assemble: .*{message}"):
        replace(case, **{name: spoil(getattr(case, name))}).native(out)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (torch.empty(2, 6, 5, 8, 9), ValueError, r"out has shape \[2, 6, 5, 8, 9\], expected \[2, 6, 5, 8, 10\]"),
        (torch.empty(2, 6, 5, 10, 8).transpose(3, 4), ValueError, "out has stride 8 along axis 4, expected 1"),
        (torch.empty(1, 6, 5, 8, 10).expand(2, -1, -1, -1, -1), ValueError, "out has stride 0 along axis 0"),
        (torch.empty(2, 6, 5, 8, 10).bfloat16(), TypeError, "out has dtype bfloat16, expected float32"),
        (None, TypeError, "out is a NoneType, expected a tensor"),
    ],
)
def test_the_output_s_memory_is_examined_too(out, error, message):
    with pytest.raises(error, match=message):
        _C.latent_assemble(**vars(make()), out=out)


def test_read_only_memory_is_not_written():
    out = np.zeros((2, 6, 5, 8, 10), dtype=np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        _C.latent_assemble(**vars(make()), out=out)
    assert not out.any()


def test_borrowed_memory_is_given_back():
    arrays = {name: x.numpy() for name, x in vars(make()).items()}
    arrays["out"] = np.empty((2, 6, 5, 8, 10), dtype=np.float32)
    before = [sys.getrefcount(x) for x in arrays.values()]
    for _ in range(3):
        _C.latent_assemble(**arrays)
        with pytest.raises(ValueError, match="expected"):
            _C.latent_assemble(**{**arrays, "source": arrays["noise"][:1]})
    assert [sys.getrefcount(x) for x in arrays.values()] == before


def test_without_the_extension_torch_serves_and_the_kernel_asked_for_by_name_is_an_error(monkeypatch):
    case = make()
    kernel = case.assemble("cpu")
    monkeypatch.setattr(sky4.ops.backend, "_CPU_MISSING", "sky4._C is not built")
    assert torch.equal(case.assemble("auto"), kernel)
    with pytest.raises(ValueError, match=r"sky4\._C is not built; choose auto or torch"):
        case.assemble("cpu")
