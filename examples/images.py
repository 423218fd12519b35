"""Image models: a first recipe is written from folders of pictures, and run.

python images.py BASE DATA OUT EXPERT...

DATA has a folder for each expert, named as the expert's: DATA/pets/train/cat/1.png, DATA/pets/test/cat/2.png.
The classes of a CLIP are these folders' names. A ViT needs a linear head for classes (`head` in
docs/recipe.md); without one it is judged by how near its outputs are to the reference's.
"""

import sys
from pathlib import Path

import epmq_export as epmq


def main(base: str, data: str, output: str, *experts: str) -> int:
    """Write OUT/recipe.yaml, run it into OUT/model, and tell how near the file is to its reference."""
    recipe = epmq.init(base, experts, Path(output, "recipe.yaml"), data=data)
    # Whoever has time looks at the recipe here: `epmq init` marks with TODO what only they know.
    verdict = epmq.run(recipe, Path(output, "model"))
    for file in verdict.files:
        print(f"{file.path}: {file.file.bytes / 1e6:.2f} MB in {file.runtime}")
        for task, told in file.checks["tasks"].facts["by_task"].items():
            loss = told["loss"]
            ends = f"{loss['low']:.2g} to {loss['high']:.2g}"
            print(f"  {task}: {told['measure']} {loss['value']:.2g} ({ends})")
    print(f"verdict: {verdict.outcome}")
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
