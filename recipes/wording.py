"""How recipes are written."""

import json


def quoted(value: str) -> str:
    """A text as YAML has it."""
    return f"'{value}'" if '"' in value else json.dumps(value, ensure_ascii=False)
