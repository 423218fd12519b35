"""The pages as a site that needs no network: `make docs`, or `python -m tests.docs.site`, builds it.

The pages are laid out as in the repository, with every file that they link to beside them, so that the links
that GitHub shows lead somewhere here, too. A link to a folder leads to a list of what is in it.
"""

import ast
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests import ROOT

CONFIG = ROOT / "docs" / "mkdocs.yml"
BUILD = ROOT / "build"
FIRST = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/*.md", "docs/*.css")
_LINK = re.compile(r"(\]\()([^)#\s]+)([^)]*\))")
_FOLDER_PAGE = "README.md"


def stage(place: Path) -> None:
    """Fill a folder, which does not exist yet, with the pages and with what they link to."""
    left = [page for pattern in FIRST for page in sorted(ROOT.glob(pattern))]
    done: set[Path] = set()
    while left:
        path = left.pop(0)
        if path in done:
            continue
        done.add(path)
        there = place / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            there.mkdir(exist_ok=True)
            if not (path / _FOLDER_PAGE).is_file():
                (there / _FOLDER_PAGE).write_text(_listed(path), encoding="utf-8")
        elif path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            targets = [path.parent / target for _, target, _ in _LINK.findall(text) if "://" not in target]
            found = [Path(target).resolve() for target in targets]
            left += [target for target in found if target.exists()]
            left += [target / _FOLDER_PAGE for target in found if (target / _FOLDER_PAGE).is_file()]
            there.write_text(_LINK.sub(partial(_to_a_page, path), text), encoding="utf-8")
        else:
            shutil.copyfile(path, there)


def _to_a_page(page: Path, link: re.Match[str]) -> str:
    """Return a link of a page, with the page of a folder in place of the folder."""
    before, target, behind = link.groups()
    if "://" in target or not (page.parent / target).is_dir():
        return link[0]
    return f"{before}{target.rstrip('/')}/{_FOLDER_PAGE}{behind}"


def _listed(folder: Path) -> str:
    """Return a page that lists the modules of a folder, each with the first sentence of its docstring."""
    lines = [f"# {folder.relative_to(ROOT).as_posix()}", ""]
    for path in sorted(folder.rglob("*.py")):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        sentence = " ".join(said.partition("\n\n")[0].split())
        if sentence:
            lines.append(f"- `{path.relative_to(folder).as_posix()}`: {sentence}")
    return "\n".join(lines) + "\n"


def build(place: Path = BUILD) -> None:
    """Build the site at `place/site`. A link that leads nowhere ends it with an error."""
    source, site = place / "site-source", place / "site"
    shutil.rmtree(source, ignore_errors=True)
    stage(source)
    config = place / "mkdocs.yml"
    text = CONFIG.read_text(encoding="utf-8")
    config.write_text(f"{text}docs_dir: {source}\nsite_dir: {site}\n", encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--config-file", str(config)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    build()
    print(BUILD / "site" / "index.html")
