"""The rooms of the house, and the lines of its pages."""

import re
import subprocess
from pathlib import Path

from tests import ROOT

PACKAGES = ("epmq_export", "converters", "formats")


def rooms() -> list[Path]:
    """Return every folder and module at the top of the three packages, relative to the root."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).iterdir()):
            module = path.suffix == ".py" and path.stem != "__init__"
            if module or (path.is_dir() and any(path.rglob("*.py"))):
                found.append(path.relative_to(ROOT))
    return found


def top_folders() -> set[str]:
    """Return the names of the folders at the root that are kept in the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {line.partition("/")[0] for line in listed.splitlines() if "/" in line}
    return {name for name in names if not name.startswith(".")}


def links(page: Path) -> list[str]:
    """Return the targets of a page's links to files of the repository, without anchors."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    return [target for target in targets if "://" not in target]
