"""Looks at a page as a reader does: in a browser, on a narrow screen, with a wide font."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
#: The fallback font of many Linux systems, about a sixth wider than the usual ones.
FONT = '<style>*, .chart text { font-family: "DejaVu Sans", Verdana, sans-serif !important; }</style>'
#: Lists texts that are cut, that leave the page, or that lie on each other in a drawing.
SCRIPT = """<script>
window.onload = () => {
  const width = document.documentElement.clientWidth, found = [], drawn = new Map();
  if (document.documentElement.scrollWidth > width)
    found.push(`the page is ${document.documentElement.scrollWidth} px wide on a screen of ${width}`);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const words = texts.currentNode.textContent.trim(), parent = texts.currentNode.parentElement;
    if (!words || parent.closest("script, style, title")) continue;
    const range = document.createRange();
    range.selectNodeContents(texts.currentNode);
    const at = range.getBoundingClientRect(), svg = parent.closest("svg");
    if (!at.width) continue;
    const boxes = [[{left: 0, right: width, top: -1e6, bottom: 1e6}, "the page"]];
    if (parent.closest(".scroll")) boxes[0] = [parent.closest(".scroll").getBoundingClientRect(), ""];
    if (svg) boxes.push([svg.getBoundingClientRect(), "its drawing"]);
    for (let up = parent; up && !svg; up = up.parentElement)
      if (getComputedStyle(up).overflowX === "hidden") boxes.push([up.getBoundingClientRect(), "its box"]);
    for (const [box, name] of boxes)
      if (name && (at.left < box.left - 1 || at.right > box.right + 1 ||
                   at.top < box.top - 2 || at.bottom > box.bottom + 2))
        found.push(`'${words}' leaves ${name} by ${Math.max(box.left - at.left, at.right - box.right).toFixed(0)} px`);
    const place = svg || parent.closest(".scale");
    if (place) {
      for (const [other, there] of drawn.get(place) || [])
        if (Math.min(at.right, there.right) - Math.max(at.left, there.left) > 2 &&
            Math.min(at.bottom, there.bottom) - Math.max(at.top, there.top) > 4)
          found.push(`'${words}' lies on '${other}'`);
      drawn.set(place, [...(drawn.get(place) || []), [words, at]]);
    }
  }
  for (const box of document.querySelectorAll(".scroll")) {
    const at = box.getBoundingClientRect();
    if (at.left < -1 || at.right > width + 1) found.push("a table leaves the page");
  }
  parent.document.getElementById("found").textContent = JSON.stringify(found);
};
</script>"""


def cut_texts(page: str, width: int, folder: Path) -> list[str]:
    """Return what a reader cannot read of a page, one sentence each.

    Args:
        page: The page's HTML.
        width: Width of the screen in pixels.
        folder: A folder for the browser's files.
    """
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    # A frame may be narrower than a browser's smallest window.
    inner = html.escape(page.replace("</head>", f"{FONT}{SCRIPT}</head>"), quote=True)
    frame = f'<iframe style="width:{width}px;height:9000px;border:0" srcdoc="{inner}"></iframe>'
    (folder / "outer.html").write_text(f"<!doctype html><body>{frame}<pre id=found></pre>", encoding="utf-8")
    switches = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom")
    command = [BROWSER, *switches, f"--user-data-dir={folder / 'profile'}", (folder / "outer.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    answer = done.stdout.rpartition('<pre id="found">')[2].partition("</pre>")[0]
    return json.loads(html.unescape(answer))
