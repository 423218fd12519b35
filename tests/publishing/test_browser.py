"""The page in a real browser: its width, its letters in light and dark, and all of it by keyboard."""

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from epmq_export.publishing.page import page_of
from epmq_export.publishing.report import report_of
from tests.publishing.page_reports import report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (360, 800, 1400)
FOUND = next((place for name in BROWSERS if (place := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(FOUND is None, reason=f"there is no browser: none of {', '.join(BROWSERS)}")

HARNESS = """<!DOCTYPE html><meta charset="utf-8">
%s
<pre id="told"></pre>
<script>
function channels(colour) { return colour.match(/[\\d.]+/g).slice(0, 3).map(Number); }
function luminance(colour) {
  const [r, g, b] = channels(colour).map(
    c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}
function told(frame) {
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  const style = element => view.getComputedStyle(element), paper = style(root).backgroundColor;
  for (const each of page.querySelectorAll("summary")) each.click();
  const shown = [...page.querySelectorAll("svg.plot")].map(plot => plot.getBoundingClientRect());
  return {
    over: root.scrollWidth - root.clientWidth,
    paper: paper,
    text: Math.min(
      ...[...page.querySelectorAll("p, th, td, dt, dd")].map(e => contrast(style(e).color, paper))),
    plotted: Math.min(...[...page.querySelectorAll(".plot text")].map(e => contrast(style(e).fill, paper))),
    marks: Math.min(...[...page.querySelectorAll(".plot use")].map(e => contrast(
      style(e).stroke === "none" ? style(e).fill : style(e).stroke, paper))),
    letters: Math.min(...[...page.querySelectorAll(".plot text")].map(e => e.getBoundingClientRect().height)),
    plots: shown.filter(box => box.width > 250 && box.right <= root.clientWidth + 1).length,
    open: page.querySelectorAll("details[open]").length,
    details: page.querySelectorAll("details").length,
    unreachable: [...page.querySelectorAll(".scroll, pre")].filter(e => e.tabIndex !== 0).length,
    asked: view.performance.getEntriesByType("resource").map(entry => entry.name),
  };
}
addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")];
  document.getElementById("told").textContent = JSON.stringify(frames.map(told));
});
</script>"""


def looked_at(folder: Path, *flags: str) -> list[dict[str, Any]]:
    """Return what a browser tells of the page at each width."""
    assert FOUND is not None
    (folder / "report.html").write_text(
        page_of(report_of(report(("mood", "a task with a rather long name")), Path())), encoding="utf-8"
    )
    frames = "".join(f'<iframe src="report.html" width="{width}" height="900"></iframe>' for width in WIDTHS)
    (folder / "harness.html").write_text(HARNESS % frames, encoding="utf-8")
    command = [FOUND, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000", *flags, "--dump-dom"]
    run = subprocess.run(
        [*command, (folder / "harness.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    content = run.stdout.partition('<pre id="told">')[2].partition("</pre>")[0]
    assert content, run.stderr
    found: list[dict[str, Any]] = json.loads(unescape(content))
    return found


@pytest.mark.parametrize(("scheme", "paper"), [(1, "rgb(255, 255, 255)"), (0, "rgb(20, 23, 26)")])
def test_the_page_can_be_read_at_any_width_in_light_and_dark(scheme: int, paper: str, tmp_path: Path) -> None:
    found = looked_at(tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
    assert len(found) == len(WIDTHS)
    for told in found:
        assert told["paper"] == paper
        assert told["over"] <= 0
        assert told["plots"] == 5
        assert told["text"] >= 4.5 and told["plotted"] >= 4.5 and told["marks"] >= 3
        assert told["letters"] >= 9
        assert told["open"] == told["details"] > 8
        assert told["unreachable"] == 0
        assert told["asked"] == []
