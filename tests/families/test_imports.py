"""What a family imports, and what is known without importing one."""

import json
import subprocess
import sys
from pathlib import Path

from converters import FAMILIES
from tests import ROOT
from tests.families.models import MODELS


def test_what_is_frozen_and_names_are_known_without_any_model_code(tmp_path: Path) -> None:
    """`epmq merge` asks for them, of a model that it opens no family for."""
    for model_type in FAMILIES:
        (tmp_path / model_type).mkdir()
        (tmp_path / model_type / "config.json").write_text(json.dumps({"model_type": model_type}))
    program = (
        "import sys; from pathlib import Path; from converters import frozen, naming; "
        "[naming(place) for place in Path(sys.argv[1]).iterdir()]; "
        "print(*(place.name for place in Path(sys.argv[1]).iterdir() if frozen(place))); "
        "assert 'transformers' not in sys.modules"
    )
    made = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert made.stdout.split() == ["clip"]


def test_a_family_imports_no_other_familys_code(tmp_path: Path) -> None:
    directory = MODELS["llama"].write(tmp_path / "model")
    program = (
        "import sys; from pathlib import Path; from converters import open_family; "
        "open_family(Path(sys.argv[1])); "
        "found = [name.split('.') for name in sys.modules if name.startswith('transformers.models.')]; "
        "print(*{name[2] for name in found if name[-1].startswith('modeling_')})"
    )
    made = subprocess.run(
        [sys.executable, "-c", program, str(directory)], check=True, cwd=ROOT, capture_output=True, text=True
    )
    # `auto` is the library's list of names.
    assert {*made.stdout.split()} - {"auto"} == {"llama"}
