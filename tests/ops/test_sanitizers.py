"""The C++ core under the address and undefined-behaviour sanitizers, without Python."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fastsi import _ext
from tests.support.builds import one_build_at_a_time

ROOT = Path(__file__).resolve().parents[2]
ISAS = ("portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx")
SANITIZE = "-g1 -fsanitize=address,undefined -fno-sanitize-recover=all"


def sanitizers_work(folder: Path) -> bool:
    """Whether the compiler finds the sanitizers' libraries."""
    source = folder / "probe.cc"
    source.write_text("int main() {}\n")
    command = ["c++", *SANITIZE.split(), str(source), "-o", str(folder / "probe")]
    return subprocess.run(command, capture_output=True, check=False, timeout=600).returncode == 0


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with the fuzz drivers, sanitized; -O1 keeps the build short.

    So does leaving out the sanitizers in kernels that this machine cannot run. Tiles of AMX are
    emulated where the rest of that instruction set is there.
    """
    folder = tmp_path_factory.mktemp("sanitized")
    if not (shutil.which("cmake") and shutil.which("c++") and sanitizers_work(folder)):
        pytest.skip("needs cmake and a C++ compiler with sanitizers")
    here = set(_ext.core().available_isas())
    emulated = "avx512_bf16" in here and "amx" not in here
    if emulated:
        here.add("amx")
    options = {
        "FASTSI_PYTHON": "OFF",
        "FASTSI_EMULATE_AMX": "ON" if emulated else "OFF",
        "FASTSI_CUDA": "OFF",
        "FASTSI_CXX_TESTS": "ON",
        "FASTSI_WERROR": "ON",
        "FASTSI_KERNEL_OPTIMISATION": "-O1",
        "FASTSI_UNSANITIZED": ";".join(set(ISAS) - here),
        "CMAKE_BUILD_TYPE": "Debug",
        "CMAKE_CXX_FLAGS": SANITIZE,
    }
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder)]
    configure += [f"-D{name}={value}" for name, value in options.items()]
    make = ["cmake", "--build", str(folder), "--parallel", "2"]
    with one_build_at_a_time():
        for command in (configure, make):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_fuzz(build: Path, seed: int) -> None:
    driver = [str(build / "fastsi_fuzz_ops"), str(seed), "60"]
    done = subprocess.run(driver, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr[-8000:]
    assert "portable: 60 rounds" in done.stdout
    if "avx512_bf16" in _ext.core().available_isas():
        assert "amx: 60 rounds" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_fuzz_vote(build: Path, seed: int) -> None:
    """Texts of a megabyte are among the inputs; unoptimised and sanitized, one takes a second.

    Looking at the rest of the text byte by byte at every byte would take an hour.
    """
    driver = [str(build / "fastsi_fuzz_vote"), "--inputs", "25000", "--limit-ms", "120000"]
    driver += ["--seed", str(seed)]
    done = subprocess.run(driver, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr[-8000:]
    assert f"25000 inputs, seed {seed}" in done.stdout


@pytest.mark.slow
def test_wide_kernels_share_no_code(build: Path) -> None:
    """An inline function compiled for AVX-512 must not become the copy that older CPUs call."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    objects = sorted(build.glob("CMakeFiles/fastsi_kernels_*/**/*.o"))
    wide = [path for path in objects if "kernels_portable" not in str(path)]
    for path in wide:
        isa = next(part for part in path.parts if part.startswith("fastsi_kernels_"))
        space = f"fastsi::{isa.removeprefix('fastsi_kernels_').removesuffix('.dir')}::"
        listed = subprocess.run(
            ["nm", "-C", "--defined-only", str(path)], capture_output=True, text=True, check=True
        )
        code = [line.split(maxsplit=2) for line in listed.stdout.splitlines() if line]
        # Names of templates come with their result: "void fastsi::amx::f<int>(...)".
        visible = [
            re.split(r"[<(]", name)[0].split()[-1] for _, kind, name in code if kind in "WTu"
        ]
        assert visible
        assert [name for name in visible if not name.startswith(space)] == []
