"""The object in a JSON file, or the reason why there is none."""

import json
from pathlib import Path
from typing import Any, NoReturn

from epmq_export.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; InputError where it is absent, broken, no object, or holds NaN or infinity,
    which JSON has not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected an object")
    return content


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
