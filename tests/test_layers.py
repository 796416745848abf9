"""The architecture of docs/design.md, checked on the source text.

Each rule is a function from source text to a list of complaints, so that it can be shown to
complain about text that breaks it.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastsi.types import Question

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fastsi"
CSRC = ROOT / "csrc"

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 80

BASE = {"types", "errors", "env", "_ext"}
_MIDDLE = BASE | {"ops", "engine", "vote", "data", "train", "evaluate"}
MAY_IMPORT = {
    **dict.fromkeys(BASE, BASE),
    "ops": BASE,
    "engine": BASE | {"ops"},
    "vote": BASE | {"ops"},
    "data": BASE,
    "train": BASE | {"ops", "engine", "vote", "data"},
    "evaluate": BASE | {"engine", "vote", "data"},
    "vote_files": BASE | {"vote", "data", "train"},
    "api": _MIDDLE | {"vote_files"},
    "cli": _MIDDLE | {"vote_files", "api"},
    "integrations": _MIDDLE | {"vote_files", "api"},
    "__init__": _MIDDLE | {"api"},
    "__main__": _MIDDLE | {"api", "cli"},
}
"""Layer -> layers it may import; a layer may always import itself."""


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def c_files() -> list[Path]:
    return sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cc", ".cu", ".cuh"))


def module_name(path: Path) -> str:
    """Dotted name of a file below the repository root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def layer_of(module: str) -> str | None:
    """First name below ``fastsi``; ``__init__`` for the package itself, None for other packages."""
    head, _, rest = module.partition(".")
    if head != "fastsi":
        return None
    return rest.partition(".")[0] or "__init__"


def _from_modules(node: ast.ImportFrom, package: list[str]) -> Iterator[str]:
    if node.level:
        base = package[: len(package) - node.level + 1]
        module = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
    else:
        module = node.module or ""
    # `from fastsi import ops` imports fastsi.ops; names of deeper modules stay in their layer.
    if module == "fastsi":
        yield from (f"fastsi.{alias.name}" for alias in node.names)
    else:
        yield module


def imports(source: str, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, imported module) of every import, inside functions and TYPE_CHECKING blocks too."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, name) for name in _from_modules(node, package))
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            name = node.args[0]
            if (
                called in ("import_module", "__import__")
                and isinstance(name, ast.Constant)
                and isinstance(name.value, str)
            ):
                yield node.lineno, name.value


def type_checking_lines(source: str) -> set[int]:
    """Lines inside `if TYPE_CHECKING:` blocks, which do not run."""
    return {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for line in range(node.lineno, (node.body[-1].end_lineno or 0) + 1)
    }


def layer_complaints(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports that the table of layers forbids."""
    layer = layer_of(module)
    assert layer in MAY_IMPORT, f"{module} belongs to no layer of docs/design.md"
    found = []
    only_types = type_checking_lines(source)
    for line, name in imports(source, module, is_package=is_package):
        target = layer_of(name)
        place = f"{module}:{line}"
        if target in ("_C", "_C_cuda"):
            if layer != "_ext" and line not in only_types:
                found.append(f"{place}: only fastsi._ext imports compiled modules")
        elif target == "__version__" or (target == "__init__" and layer in ("cli", "integrations")):
            continue
        elif target is not None and target != layer and target not in MAY_IMPORT[layer]:
            found.append(f"{place}: {layer} may not import {target}")
        elif target is None and layer in BASE and name.split(".")[0] not in sys.stdlib_module_names:
            found.append(f"{place}: {layer} may import the standard library only, not {name}")
        elif name.split(".")[0] == "triton" and "._triton" not in module:
            found.append(f"{place}: only _triton*.py files import triton")
    return found


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_imports_follow_the_layer_table(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    is_package = path.name == "__init__.py"
    assert layer_complaints(source, module_name(path), is_package=is_package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastsi.types", "import numpy"),
        ("fastsi.ops._registry", "from fastsi.engine import LLM"),
        ("fastsi.engine.llm", "def f():\n    import fastsi.vote.majority"),
        ("fastsi.engine.llm", "if TYPE_CHECKING:\n    from fastsi import vote"),
        ("fastsi.train.rounds", "from ..evaluate import gold"),
        ("fastsi.train.rounds", "import importlib\nimportlib.import_module('fastsi.evaluate')"),
        ("fastsi.data.questions", "from fastsi.engine.llm import LLM"),
        ("fastsi.ops.kv_write.api", "import fastsi._C"),
        ("fastsi.ops.kv_write.api", "import triton"),
        ("fastsi.api", "from fastsi.cli import app"),
    ],
)
def test_forbidden_imports_are_noticed(module: str, source: str) -> None:
    assert layer_complaints(source, module) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastsi.ops.kv_write.api", "from . import reference\nfrom .._registry import choose"),
        ("fastsi.train.rounds", "from fastsi.data import mixing\nimport torch"),
        ("fastsi.ops.kv_write._triton", "import triton"),
        ("fastsi.ops._view", "if TYPE_CHECKING:\n    from fastsi._C import TensorView"),
    ],
)
def test_permitted_imports_pass(module: str, source: str) -> None:
    assert layer_complaints(source, module) == []


def include_complaints(source: str, folder: str) -> list[str]:
    """Includes that break the order include < core, cpu, cuda < bindings."""
    visible = {
        "include": ("fastsi/",),
        "core": ("fastsi/", "core/"),
        "cpu": ("fastsi/", "core/", "cpu/"),
        "cuda": ("fastsi/", "core/", "cuda/"),
        "vote": ("fastsi/", "core/", "vote/"),
        "bindings": ("fastsi/", "core/", "cpu/", "cuda/", "bindings/"),
        "tests": ("fastsi/", "core/", "cpu/", "cuda/"),
    }[folder]
    found = []
    for line, text in enumerate(source.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', text)
        if match is None:
            continue
        quote, name = match.groups()
        foreign = re.match(r"(torch|ATen|c10|pybind11)/|Python\.h$", name)
        from_cuda = re.match(r"(cuda|cub|thrust|cooperative_groups)", name)
        ours = quote == '"' and name.startswith("cuda/")  # csrc/cuda
        if foreign and re.match(r"(torch|ATen|c10)/", name):
            found.append(f"line {line}: {name}: the extension does not use libtorch")
        elif foreign and folder != "bindings":
            found.append(f"line {line}: {name}: Python headers belong to bindings")
        elif folder != "cuda" and from_cuda and not ours:
            found.append(f"line {line}: {name}: CUDA headers belong to cuda")
        elif quote == '"' and "/" in name and not name.startswith(visible):
            found.append(f"line {line}: {name}: {folder} may include {', '.join(visible)}")
    return found


@pytest.mark.parametrize("path", c_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_c_includes_follow_the_layers(path: Path) -> None:
    folder = path.relative_to(CSRC).parts[0]
    assert include_complaints(path.read_text(encoding="utf-8"), folder) == []


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("include", '#include "core/page_pool.h"'),
        ("core", '#include "cpu/simd.h"'),
        ("cpu", "#include <torch/extension.h>"),
        ("cpu", "#include <pybind11/pybind11.h>"),
        ("core", "#include <Python.h>"),
        ("bindings", "#include <ATen/ATen.h>"),
        ("cpu", "#include <cuda_runtime.h>"),
        ("cpu", '#include "cuda/vote_answers_kernel.cuh"'),
    ],
)
def test_forbidden_includes_are_noticed(folder: str, line: str) -> None:
    assert include_complaints(line, folder) != []


def op_names() -> list[str]:
    return sorted(path.parent.name for path in PACKAGE.glob("ops/*/api.py"))


def test_every_op_folder_has_an_api() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("ops/*/*.py")}
    assert folders == set(op_names())
    assert {"segment_attention", "merge_states", "kv_write", "sample_tokens"} <= folders


@pytest.mark.parametrize("op", op_names())
def test_every_op_is_a_whole_slice(op: str) -> None:
    """One stem per op: definition, CPU backend, kernel, test and benchmark."""
    wanted = [
        f"fastsi/ops/{op}/reference.py",
        f"fastsi/ops/{op}/_cpu.py",
        f"tests/ops/test_{op}.py",
        f"benchmarks/ops/bench_{op}.py",
    ]
    if "_ext.core()" in (PACKAGE / f"ops/{op}/_cpu.py").read_text(encoding="utf-8"):
        wanted.append(f"csrc/cpu/{op}*.cc")
    assert [name for name in wanted if not list(ROOT.glob(name))] == []


def long_functions(source: str) -> list[tuple[str, int]]:
    """(name, lines) of function bodies longer than allowed, docstrings included.

    Signatures do not count: those of commands declare every option with its help.
    """
    functions = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    sizes = ((node.name, (node.end_lineno or 0) - node.body[0].lineno + 1) for node in functions)
    return [(name, lines) for name, lines in sizes if lines > MAX_FUNCTION_LINES]


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_FILE_LINES
    assert long_functions(source) == []


@pytest.mark.parametrize("path", c_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_c_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


def test_a_long_function_is_noticed() -> None:
    body = "\n".join("    x = 1" for _ in range(MAX_FUNCTION_LINES + 1))
    assert long_functions(f"def f():\n{body}\n") == [("f", MAX_FUNCTION_LINES + 1)]
    assert long_functions("def f():\n    return 1\n") == []


def mutable_configs(source: str) -> list[str]:
    """Dataclasses that hold settings (by name) and are not frozen and keyword-only."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or not re.search(
            r"(Config|Settings|Options|SamplingParams)$", node.name
        ):
            continue
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            if "dataclass" not in ast.unparse(call.func if call else decorator):
                continue
            true = {
                keyword.arg
                for keyword in (call.keywords if call else [])
                if isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            }
            if not {"frozen", "kw_only"} <= true:
                found.append(node.name)
    return found


@pytest.mark.parametrize("path", python_files(), ids=module_name)
def test_config_dataclasses_are_frozen(path: Path) -> None:
    assert mutable_configs(path.read_text(encoding="utf-8")) == []


def test_a_mutable_config_is_noticed() -> None:
    assert mutable_configs("@dataclass\nclass AConfig:\n    x: int") == ["AConfig"]
    assert mutable_configs("@dataclass(frozen=True)\nclass AConfig:\n    x: int") == ["AConfig"]
    fine = "@dataclasses.dataclass(frozen=True, kw_only=True)\nclass AConfig:\n    x: int"
    assert mutable_configs(fine) == []


def test_a_question_cannot_carry_its_answer() -> None:
    assert {field.name for field in dataclasses.fields(Question)} == {"id", "question"}
