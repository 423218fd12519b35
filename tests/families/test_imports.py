"""What a family imports, and what is known without importing one."""

import json
import subprocess
import sys
from pathlib import Path

from converters import FAMILIES
from tests import ROOT
from tests.families.models import MODELS


def test_what_is_imported_for_merges_and_for_a_family(tmp_path: Path) -> None:
    """`epmq merge` asks what is frozen and how tensors are named, of a model that it opens no family for, and
    a family that is opened imports no other's code.
    """
    for model_type in FAMILIES:
        (tmp_path / model_type).mkdir()
        (tmp_path / model_type / "config.json").write_text(json.dumps({"model_type": model_type}))
    llama = MODELS["llama"].write(tmp_path.with_name(f"{tmp_path.name}-llama"))
    program = (
        "import sys; from pathlib import Path; from converters import frozen, naming, open_family; "
        "[naming(place) for place in Path(sys.argv[1]).iterdir()]; "
        "print(*(place.name for place in Path(sys.argv[1]).iterdir() if frozen(place))); "
        "assert 'transformers' not in sys.modules; "
        "open_family(Path(sys.argv[2])); "
        "found = [name.split('.') for name in sys.modules if name.startswith('transformers.models.')]; "
        "print(*{name[2] for name in found if name[-1].startswith('modeling_')})"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(llama)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    with_frozen, modelling = made.stdout.splitlines()
    assert sorted(with_frozen.split()) == ["clip", "siglip"]
    # `auto` is the library's list of names.
    assert {*modelling.split()} - {"auto"} == {"llama"}
