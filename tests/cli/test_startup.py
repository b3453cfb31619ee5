"""What makes the command quick to start and end takes nothing away from what runs in between."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT / "python_model"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment)


def test_leaving_flushes_what_was_said_runs_the_exit_functions_and_keeps_the_code():
    done = run_python(
        "import atexit, sys; atexit.register(print, 'at exit');"
        "from sky4cli.startup import leave; print('said'); print('told', file=sys.stderr); leave(3)"
    )
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["said", "at exit"]
    assert done.stderr.splitlines() == ["told"]


def test_scipy_can_be_imported_after_the_libraries():
    done = run_python(
        "import sys; from sky4cli.startup import load_libraries; load_libraries();"
        "assert 'scipy' not in sys.modules; from scipy.signal import resample_poly; print('there')"
    )
    assert done.stdout.strip() == "there", done.stderr


def test_a_single_module_of_diffusers_leaves_its_packages_whole():
    done = run_python(
        "import sys\n"
        "from sky4.encoders.folder import single_modules\n"
        "with single_modules():\n"
        "    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan\n"
        "assert 'diffusers.models.autoencoders.autoencoder_dc' not in sys.modules, 'the neighbours were loaded'\n"
        "from diffusers import AutoencoderDC, AutoencoderKLWan as again\n"
        "from diffusers.models.autoencoders import AutoencoderKLWan as whole\n"
        "assert again is AutoencoderKLWan is whole\n"
        "from diffusers.models.unets import UNet2DModel\n"
        "print('whole')\n"
    )
    assert done.stdout.strip() == "whole", done.stderr
