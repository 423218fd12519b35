"""Quantise a BERT's linears with llm-compressor; run by an interpreter that has it, and nothing of this
project.

    python llm_compressor_worker.py REQUEST

REQUEST is a JSON file: `model`, a directory; `texts`; `linears`, names of weights; `group`; `weights`, the
safetensors file to write, the dequantised values by name in float32; `answer`, the JSON file to write:
`version`, `bits` a weight, `nearest`, the linears that llm-compressor rounded to the nearest because their
Hessian could not be inverted.

    pip install torch==2.13.0 && pip install llmcompressor==0.14.0.1
"""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, BertModel

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else llmcompressor warns


def main(request: Path) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier

    asked = json.loads(request.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(asked["model"], local_files_only=True)
    model = BertModel.from_pretrained(
        asked["model"], add_pooling_layer=False, dtype=torch.float32, local_files_only=True
    )
    # A text a batch: padding would count in its Hessians.
    texts: Any = asked["texts"]  # the loader takes a list, its types ask for a Dataset
    batches: Any = DataLoader(
        texts,
        batch_size=1,
        collate_fn=lambda batch: dict(tokenizer(batch, truncation=True, return_tensors="pt")),
    )
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": asked["group"],
    }
    modifier = GPTQModifier(config_groups={"all": {"targets": ["Linear"], "weights": weights}})
    # "sequential": a layer's statistics are taken after the layers before it are rounded.
    oneshot(
        model=model, dataset=batches, recipe=modifier, pipeline="sequential", sequential_targets=["BertLayer"]
    )
    shipped, stored = {}, 0
    for name in asked["linears"]:
        module = model.get_submodule(name.removesuffix(".weight"))
        weight, scale = (
            module.get_parameter("weight").detach().float(),
            module.get_parameter("weight_scale").detach(),
        )
        steps = weight.reshape(len(weight), -1, asked["group"]) / scale.float()[:, :, None]
        if not torch.allclose(steps, steps.round().clamp(-8, 7), atol=1e-3):
            raise SystemExit(f"{name}: llm-compressor left it off its 4-bit grid")
        shipped[name] = weight.contiguous()
        stored += 4 * weight.numel() + 8 * scale.nbytes
    save_file(shipped, asked["weights"])
    answer = {
        "version": version("llmcompressor"),
        "bits": stored / sum(weight.numel() for weight in shipped.values()),
        "nearest": list(modifier._rtn_fallback_module_names),  # it is told nowhere else but in the log
    }
    Path(asked["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
