"""The page in a real browser, at laptop and phone width, in light and dark."""

from pathlib import Path

import pytest

from tests.report import chromium
from tests.report.conftest import read

_CHECK = """
const images = [...document.images];
return {
  scroll: document.documentElement.scrollWidth, inner: innerWidth, num_images: images.length,
  undrawn: images.filter(i => !(i.complete && i.naturalWidth > 0 && i.width > 0)).map(i => i.alt),
  flat: [...document.querySelectorAll('figure svg')].filter(s => s.clientHeight < 80).length,
  loaded: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')),
  background: getComputedStyle(document.body).backgroundColor,
};
"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_page_draws_without_errors(experiment: Path, tmp_path: Path, width: int) -> None:
    if program := chromium.missing():
        pytest.skip(
            f"{program} is not installed (Debian: apt-get install chromium chromium-driver)"
        )
    check_page(experiment, tmp_path, width)


def check_page(folder: Path, tmp_path: Path, width: int) -> None:
    """Open the report about `folder` in a window of `width` CSS pixels, in light and dark."""
    page = read(folder, tmp_path / "report.html")
    with chromium.browser(tmp_path / "profile", width) as window:
        window.open(tmp_path / "report.html")
        light = window.run(_CHECK)
        scheme = {"name": "prefers-color-scheme", "value": "dark"}
        window.command("Emulation.setEmulatedMedia", features=[scheme])
        dark = window.run(_CHECK)
        log = window.log()
    assert log == []
    for found in (light, dark):
        assert found["inner"] == width
        assert found["scroll"] <= width
        assert found["num_images"] == len(page.all("img"))
        assert found["undrawn"] == []
        assert found["flat"] == 0
        assert found["loaded"] == []
    assert light["background"] != dark["background"]
