"""Write the forms of one model that the peers read, so that all run the same weights.

From a GGUF file: ``float32/`` (transformers, vLLM, fastsi), ``openvino-fp32/``, ``openvino-int8/``
and ``ctranslate2-fp32/``, ``ctranslate2-int8/``; llama.cpp and OpenVINO also read the GGUF file
itself. The exporters run in the environments of `make_envs.py`; a form that is already there is
left as it is.

Example:
    python benchmarks/peers/make_models.py SmolLM2-135M-Instruct.Q4_1.gguf --out peers-models
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path


def float32_folder(gguf: Path, folder: Path, rounded: bool) -> None:
    """Dequantise to float32; the file's quantisation must not be mentioned in the config.

    ``rounded``: to the nearest bfloat16 each, as a checkpoint of that type would hold them.
    """
    import torch
    import transformers

    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    if rounded:
        model = model.to(torch.bfloat16).to(torch.float32)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if hasattr(model, "hf_quantizer"):
        model.hf_quantizer = None
    model.generation_config = transformers.GenerationConfig()
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    # The exporters' older transformers knows neither this tokenizer class nor rope_parameters.
    rope = model.config.rope_parameters
    _amend(folder / "config.json", rope_theta=rope["rope_theta"])
    _amend(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def _amend(file: Path, **fields: object) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | fields, indent=2), encoding="utf-8")


def run(*command: str | Path) -> None:
    """A peer's exporter; its messages go to standard error."""
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)


def main() -> None:
    """Make every form whose environment is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path, help="the model, a GGUF file")
    parser.add_argument("--out", type=Path, default=Path("peers-models"), help="folder to write")
    parser.add_argument("--root", type=Path, default=Path("peers-env"), help="environments")
    parser.add_argument(
        "--rounded",
        action="store_true",
        help="round every weight to bfloat16 first, as a checkpoint of that type holds it; the "
        "GGUF file stays as it is, so leave out the peers that read it",
    )
    args = parser.parse_args()
    if not args.gguf.is_file():
        raise SystemExit(f"error: {args.gguf}: no such file")
    args.out.mkdir(parents=True, exist_ok=True)
    plain = args.out / "float32"
    if not plain.exists():
        half = args.out / "float32.partial"
        float32_folder(args.gguf, half, args.rounded)
        half.rename(plain)
    steps = {}
    for weights in ("fp32", "int8"):
        openvino = args.root / "openvino" / "bin"
        steps[f"openvino-{weights}"] = [
            openvino / "optimum-cli", "export", "openvino", "--model", plain,
            "--task", "text-generation-with-past", "--weight-format", weights,
        ]  # fmt: skip
        converter = args.root / "ctranslate2" / "bin" / "ct2-transformers-converter"
        kind = "float32" if weights == "fp32" else "int8"
        steps[f"ctranslate2-{weights}"] = [
            converter, "--model", plain, "--quantization", kind, "--output_dir",
        ]  # fmt: skip
    for name, command in steps.items():
        target = args.out / name
        if target.exists() or not Path(command[0]).exists():
            continue
        half = args.out / f"{name}.partial"
        shutil.rmtree(half, ignore_errors=True)
        run(*command, half)
        half.rename(target)
        print(f"wrote {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
