"""What a fresh machine gets: the wheel, the pinned versions, the commands, the README's example."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.builds import one_build_at_a_time

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(command: list[str | Path], cwd: Path, **extra: Any) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, **extra
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def declared() -> list[Requirement]:
    """Every dependency, those of the extras included."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(text) for names in lists for text in names]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def test_constraints_pin_every_dependency_inside_its_declared_range() -> None:
    pins = pinned()
    for requirement in declared():
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(version), f"{requirement} excludes {version}"


def test_every_dependency_is_justified() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    names = [requirement.name for requirement in [*declared(), *map(Requirement, build)]]
    missing = [name for name in names if not re.search(rf"^\| `{name}` \|.+\|", text, re.M)]
    assert missing == []


def test_import_is_light(tmp_path: Path) -> None:
    code = (
        "import fastsi, sys; print(sorted({'torch', 'transformers', 'triton'} & set(sys.modules)))"
    )
    assert run([sys.executable, "-c", code], tmp_path).strip() == "[]"


def make(*words: str) -> str:
    """What make would run, with everything out of date."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return run(["make", "-n", "-B", *words], ROOT, env=environment)


def test_make_test_installs_lints_and_tests() -> None:
    lines = make("test")
    for words in (
        "pip install --quiet -c constraints.txt",
        "ruff check",
        "ruff format --check",
        "bin/mypy",
        "clang-format --dry-run -Werror",
        "-m pytest",
    ):
        assert words in lines, words


def test_make_demo_installs_and_runs_the_demo() -> None:
    lines = make("demo")
    assert lines.index("pip install") < lines.index("bin/fastsi demo")
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)


def test_readme_example_runs_from_an_empty_directory(tmp_path: Path) -> None:
    blocks = python_blocks(ROOT / "README.md")
    assert len(blocks) == 2  # the second one is run by tests/integrations/test_rewards.py
    assert 5 <= len(blocks[0].splitlines()) <= 20
    output = run([sys.executable, "-W", "error::UserWarning", "-c", blocks[0]], tmp_path)
    assert re.search(r"^num:-?\d+ share (0\.\d|1\.0)", output, re.M), output
    assert re.search(r"^[1-9]\d* prompt tokens not computed again", output, re.M), output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_files_that_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    quoted = re.findall(r"`((?:fastsi|csrc|tests|benchmarks|docs)/[\w./-]+)`", text)
    named = [link for link in [*links, *quoted] if "NAME" not in link]
    assert named
    assert [link for link in named if not (ROOT / link).exists()] == []


def test_changelog_has_an_unreleased_head_and_the_licence_is_apache() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def made_by_make() -> Path | None:
    """The wheel that `make install` built, if it is newer than every file it is made from."""
    wheels = list((ROOT / "build" / "wheel").glob("fastsi-*.whl"))
    if len(wheels) != 1:
        return None
    # The makefile's own list; a prefix keeps it apart from what make itself says.
    words = ("-s", "--eval=list: ; @echo sources $(SOURCES)", "list")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    listed = run(["make", *words], ROOT, env=environment).splitlines()[-1].split()
    assert listed[0] == "sources"
    assert "csrc/core/isa.cc" in listed
    newest = max((ROOT / name).stat().st_mtime for name in listed[1:])
    return wheels[0] if wheels[0].stat().st_mtime > newest else None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made with build isolation: nothing of this environment is visible to the build."""
    made = made_by_make()
    if made is not None:
        return made
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--quiet"]
    command += ["--wheel-dir", str(folder), f"--config-settings=build-dir={folder / 'build'}"]
    with one_build_at_a_time():
        run(list(command), ROOT, env=os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": "2"})
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        modules = {name: archive.read(name) for name in names if name.endswith(".py")}
        (metadata,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        fields = message_from_string(archive.read(metadata).decode())
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastsi"}
    assert [n for n in names if re.match(r"fastsi/_C\..*(so|pyd)$", n)]
    assert {"fastsi/py.typed", "fastsi/assets/base/model.safetensors"} <= set(names)
    assert [n for n in names if n.endswith("licenses/LICENSE")]
    assert not [n for n in names if "__pycache__" in n or n.endswith((".cc", ".h"))]
    sources = {str(p.relative_to(ROOT)): p.read_bytes() for p in (ROOT / "fastsi").rglob("*.py")}
    assert modules == sources
    base = [size for name, size in sizes.items() if name.startswith("fastsi/assets/base/")]
    assert sum(base) <= 10 * 2**20
    assert fields["Requires-Python"] == ">=3.11"


SAMPLE = """
import fastsi, pathlib, sys
from fastsi import LLM, SamplingParams

assert pathlib.Path(fastsi.__file__).is_relative_to(sys.prefix), fastsi.__file__
assert pathlib.Path(fastsi._ext.core().__file__).is_relative_to(sys.prefix)
llm = LLM(str(pathlib.Path(fastsi.__file__).parent / "assets" / "base"))
(output,) = llm.generate(
    ["Tom has 3 pens."], SamplingParams(n=4, max_tokens=8, ignore_eos=True, seed=0)
)
print([len(path.token_ids) for path in output.outputs])
"""


@pytest.mark.slow
def test_wheel_samples_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The new environment borrows torch and the like from this one; fastsi is the wheel's own."""
    home, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run([*pip, "--no-deps", "--no-index", wheel], empty)
    (packages,) = home.glob("lib/python*/site-packages")
    # A folder added by a .pth file comes after the environment's own packages, and the .pth files
    # inside it (such as that of an installation in place) are not read.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    assert run([python, "-c", SAMPLE], empty, env=clean).strip() == "[8, 8, 8, 8]"
    assert "usage" in run([home / "bin" / "fastsi", "--help"], empty, env=clean).lower()
