"""Made-up experiments, made once per session, and the page as a parser sees it."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.report.page import write_report
from tests.report.made_up import make_experiment

_VOID = {"img", "meta", "link", "br"}


class Page(HTMLParser):
    """All elements with their attributes, all visible text, the rows of all tables."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, name: str) -> list[dict[str, str]]:
        """Attributes of every element of one name."""
        return [attributes for found, attributes in self.elements if found == name]

    def row(self, *cells: str) -> list[str]:
        """The first table row that begins with these cells."""
        return next(r for r in self.rows if r[: len(cells)] == list(cells))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def read(folder: Path, out: Path) -> Page:
    """Write the report about a folder and read it back."""
    write_report(folder, out)
    page = Page(out.read_text())
    assert not page.open
    return page


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment; tests only read it."""
    return make_experiment(tmp_path_factory.mktemp("report") / "made-up")


@pytest.fixture(scope="session")
def finished(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page about it."""
    return read(experiment, tmp_path_factory.mktemp("page") / "report.html")
