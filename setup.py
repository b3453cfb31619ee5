"""Builds sky4._C with CMake and Ninja; everything else about the package stands in pyproject.toml.

`python setup.py build_ext --inplace` puts the module beside its package in the checkout.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def tool(name: str) -> str:
    """The build tool of this Python's own environment if it has one, else the system's."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise SystemExit(f"setup.py: {name} is needed to build sky4._C; run: {sys.executable} -m pip install {name}")
    return found


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / ext.name
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            tool("cmake"),
            *("-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={build / 'out'}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        # A cache of another checkout or another Python would be refused or, worse, obeyed.
        subprocess.run([*configure, "--fresh"], check=True)
        subprocess.run([tool("cmake"), "--build", str(build)], check=True)
        (built,) = (build / "out").glob("_C*")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(built, target)
        self.keep_log(build / "ptxas.log")

    def keep_log(self, log: Path) -> None:
        """build/ptxas.log: what nvcc said of every CUDA kernel now in sky4._C; absent without CUDA kernels."""
        kept = ROOT / "build" / "ptxas.log"
        kept.unlink(missing_ok=True)
        if log.exists():
            shutil.copy2(log, kept)


setup(ext_modules=[Extension("sky4._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
