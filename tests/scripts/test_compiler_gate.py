"""The compiler gate lets a clean build pass and finds each fault; on lines as ptxas and cuobjdump 13 print them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts.checks.compiler_gate import (
    Expectation,
    demangled,
    judge,
    read_expectations,
    read_log,
    read_sass,
    unmatched,
)

KERNEL = "_ZN4sky44cuda36_GLOBAL__N__5cef394b_4_w_cu_07c5487b5probeILi16EEEvPfmm"
HELPER = "_ZN34_INTERNAL_5cef394b_4_w_cu_07c5487b4sky44cuda36_GLOBAL__N__5cef394b_4_w_cu_07c5487b6helperEf"
NAMES = {
    KERNEL: "void sky4::cuda::(anonymous namespace)::probe<16>(float*, unsigned long)",
    HELPER: "sky4::helper(float)",
}

LOG = f"""\
ptxas info    : 39 bytes gmem
ptxas info    : Compiling entry function '{KERNEL}' for 'sm_90a'
ptxas info    : Function properties for {KERNEL}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 4 barriers, 1024 bytes smem
ptxas info    : Compile time = 10.334 ms
ptxas info    : Function properties for {HELPER}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function '{KERNEL}' for 'sm_80'
ptxas info    : Function properties for {KERNEL}
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 352 bytes cmem[0]
"""
NOTE = (
    "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to "
    f"insufficient register resources for the wgmma pipeline in the function '{KERNEL}'\n"
)
SASS = f"""
arch = sm_90a
	code for sm_90a
		Function : {KERNEL}
	.headerflags	@"EF_CUDA_ACCELERATORS EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ;           /* 0x00000a00ff017b82 */
                                                                    /* 0x000fe20000000800 */
        /*0060*/                   USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xf0 ;                   /* 0x000000f0000 */
        /*0070*/               @P0 UTMALDG.4D [UR8], [UR4], desc[UR6] ;                       /* 0x000000f0000 */
        /*00f0*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], RZ, !UPT, gsb0 ; /* 0x00200000041 */
        /*01f0*/                   HGMMA.64x128x16.F32.BF16 R24, R4, gdesc[UR4], R24, gsb0 ;  /* 0x00200000041 */
        /*02a0*/                   MUFU.EX2 R5, R24 ;                                         /* 0x00000018000 */
        /*10420*/              @!P1 STG.E [R2.64+0x10], R31 ;                                 /* 0x0000001f001 */
        /*104b0*/                  USETMAXREG.DEALLOC.CTAPOOL 0x18;                           /* 0x00000018000 */
"""
HOT = Expectation(
    name="probe<",
    archs=("sm_90a",),
    hgmma=("64x128x16",),
    setmaxnreg=(24, 240),
    contains=("UTMALDG", "MUFU.EX2"),
    lacks=("LDL", "STL"),
)
PLAIN = Expectation(name="probe<", spill_bytes=32)


def faults(log: str = LOG, sass: str = SASS, expectations: tuple[Expectation, ...] = (HOT, PLAIN)) -> list[str]:
    return judge(read_log(log), read_sass(sass), NAMES, list(expectations))


def test_a_build_as_expected_passes() -> None:
    assert faults() == []


def test_registers_spills_and_shared_memory_are_read_per_function_and_architecture() -> None:
    kernel, helper, plain = read_log(LOG).builds
    assert (kernel.name, kernel.arch, kernel.registers, kernel.shared) == (KERNEL, "sm_90a", 168, 1024)
    assert (helper.name, helper.registers) == (HELPER, None)
    assert (plain.arch, plain.registers, plain.stack, plain.spill_stores, plain.spill_loads) == (
        "sm_80",
        255,
        16,
        8,
        12,
    )


def test_a_spill_fails() -> None:
    (fault,) = faults(LOG.replace("0 bytes spill loads", "4 bytes spill loads", 1))
    assert fault.startswith("sm_90a") and "probe<16>" in fault and "4 B in" in fault


def test_a_spill_in_a_function_that_a_kernel_calls_fails() -> None:
    before, mark, after = LOG.partition(HELPER)
    (fault,) = faults(before + mark + after.replace("0 bytes spill stores", "8 bytes spill stores", 1))
    assert "helper(float)" in fault


def test_spills_up_to_the_limit_pass_and_one_byte_more_fails() -> None:
    assert not faults(expectations=(HOT, Expectation(name="probe<", spill_bytes=12)))
    assert len(faults(expectations=(HOT, Expectation(name="probe<", spill_bytes=11)))) == 1


def test_too_many_registers_fail() -> None:
    (fault,) = faults(expectations=(HOT, Expectation(name="probe<", spill_bytes=32, registers=128)))
    assert "255 registers" in fault


@pytest.mark.parametrize("code", ["C7508", "C7510", "C7517", "C7519"])
def test_a_note_of_waiting_matrix_products_fails(code: str) -> None:
    (fault,) = faults(NOTE.replace("C7510", code) + LOG)
    assert code in fault and "probe<16>" in fault


def test_a_note_passes_only_where_its_number_is_allowed() -> None:
    allowing = Expectation(name="probe<", spill_bytes=32, notes_allowed=("C7510",))
    assert not faults(NOTE + LOG, expectations=(HOT, allowing))
    assert faults(NOTE.replace("C7510", "C7512") + LOG, expectations=(HOT, allowing))


def test_a_wrong_matrix_shape_fails() -> None:
    (fault,) = faults(sass=SASS.replace("HGMMA.64x128x16", "HGMMA.64x16x16", 1))
    assert "1 of 64x16x16" in fault and "expected shapes: 64x128x16" in fault


def test_a_missing_matrix_shape_fails() -> None:
    assert faults(sass=SASS.replace("HGMMA.64x128x16.F32.BF16", "HMMA.16816.F32"))


def test_matrix_instructions_in_a_kernel_without_an_entry_fail() -> None:
    (fault,) = faults(expectations=(PLAIN,))
    assert "no entry in cuda_expectations.toml" in fault


@pytest.mark.parametrize(
    ("found", "instead", "says"),
    [
        ("CTAPOOL 0x18", "CTAPOOL 0x20", "setmaxnreg values are [32, 240]"),
        ("USETMAXREG.DEALLOC.CTAPOOL 0x18", "NOP", "setmaxnreg values are [240]"),
        ("UTMALDG.4D", "LDG.E", "has no UTMALDG"),
        ("MUFU.EX2", "MUFU.RCP", "has no MUFU.EX2"),
        ("STG.E [R2.64+0x10]", "STL.64 [R1+0x10]", "has 1 STL"),
    ],
)
def test_machine_code_other_than_expected_fails(found: str, instead: str, says: str) -> None:
    assert found in SASS
    (fault,) = faults(sass=SASS.replace(found, instead))
    assert says in fault


def waits(beside: int) -> str:
    """Machine code with that many exponentials between the two waits of one turn of a loop."""
    opcodes = ["MUFU.EX2 R1, R1", "WARPGROUP.DEPBAR.LE gsb0, 0x1", *["MUFU.EX2 R5, R24"] * beside]
    opcodes += ["WARPGROUP.DEPBAR.LE gsb0, 0x0", "MUFU.EX2 R1, R1", "WARPGROUP.DEPBAR.LE gsb0, 0x0"]
    lines = "".join(f"        /*{16 * i:04x}*/                   {opcode} ;\n" for i, opcode in enumerate(opcodes))
    return f"arch = sm_90a\n\t\tFunction : {KERNEL}\n{lines}"


def test_softmax_must_stand_beside_the_matrix_products() -> None:
    expected = Expectation(name="probe<", spill_bytes=32, softmax_beside_products=3, hgmma=())
    assert faults(sass=waits(3), expectations=(expected,)) == []
    assert faults(sass=waits(3) + waits(5).partition(KERNEL)[2], expectations=(expected,)) == []
    for less in (waits(2), waits(3) + waits(2).partition(KERNEL)[2], waits(3).replace("0x1 ;", "0x0 ;")):
        (fault,) = faults(sass=less, expectations=(expected,))
        assert "at least 3 expected" in fault


def test_a_stack_of_arrays_out_of_registers_fails() -> None:
    (fault,) = faults(expectations=(HOT, Expectation(name="probe<", spill_bytes=32, stack_bytes=0)))
    assert "16 B of stack" in fault


def test_an_entry_that_fits_no_kernel_is_found_out() -> None:
    gone = Expectation(name="probes<")
    assert unmatched(read_log(LOG), NAMES, [HOT, PLAIN]) == []
    (fault,) = unmatched(read_log(LOG), NAMES, [HOT, gone])
    assert "probes<" in fault


def test_the_expectations_are_readable() -> None:
    read_expectations()


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    path.write_text('[[kernel]]\nname = "a"\nspills = 3\n', "utf-8")
    with pytest.raises(ValueError, match="unknown key 'spills'"):
        read_expectations(path)


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="c++filt is not installed")
def test_names_are_demangled() -> None:
    assert "probe<16>(float*" in demangled([KERNEL])[KERNEL]
