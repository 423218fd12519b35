"""Recipes as people write them."""

from pathlib import Path

from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.recipe import Recipe

SMALLEST = """\
base_model: ./base
tasks:
  mood: {expert: ./mood, calibration: mood.txt}
"""


FULL = """\
base_model: ./base
merge_method: ties
models:
  - model: ./base
  - model: ./mood
    parameters:
      density: 0.5
      weight:
        - filter: attention
          value: [0, 0.5, 1]
        - value: 1e-3
  - model: org/expert+./adapter
parameters: {lambda: 0.4}
dtype: float32
out_dtype: bfloat16
tokenizer_source: ./mood
tasks:
  mood:
    expert: mood
    calibration: [mood.txt, data/more.tsv]
    evaluation: data/test.tsv
    labels: [very_good, no, on]
  topic:
    expert: org/expert+adapter
    calibration: mood.txt
    evaluation: data/test.tsv
    labels: {world: news of the world, sport: }
calibration: {method: epmq, samples: 7, alpha: 0.25, rho: 2, lambda: 1e-1, seed: 3}
quantization: {grid: Q8_0, embeddings: Q4_0, keep: ["*.pooler.*", encoder.layer.0.*]}
export: {formats: [onnx]}
verify: {graph: 2e-3, tasks: 0, agreement: 1}
"""


def load(folder: Path, text: str) -> Recipe:
    """Write a recipe into a folder, and load it."""
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path)
