"""A page as a parser sees it, with what is wrong about it."""

from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link", "source", "wbr"}


class Page(HTMLParser):
    """The elements and texts of a page. `faults` has a sentence for each thing that a page must not have."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self._targets: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self._open]
        self.faults += [f"two elements are {name}" for name in set(self.ids) if self.ids.count(name) > 1]
        self.faults += [f"nothing is {name}" for name in self._targets if name not in self.ids]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("script", "link", "iframe", "object", "embed", "base", "form"):
            self.faults.append(f"there is a <{tag}>")
        for name, value in attrs:
            self._attribute(name, value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def _attribute(self, name: str, value: str) -> None:
        if name == "id":
            self.ids.append(value)
        elif name in ("aria-labelledby", "aria-describedby"):
            self._targets += value.split()
        elif name in ("href", "xlink:href", "src", "srcset", "data"):
            if value.startswith("#"):
                self._targets.append(value[1:])
            else:
                self.faults.append(f"it refers to {value!r}")
        elif name.startswith("on"):
            self.faults.append(f"it has a handler {name}")
        if "url(" in value and "url(#" not in value:
            self.faults.append(f"it refers to {value!r}")

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self._open[-1:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())
