"""The README's picture of a report: python -m tools.picture RUN writes docs/report.png.

It needs Debian's packages chromium and chromium-driver.
"""

import base64
import io
import pathlib
import sys

from PIL import Image

from tools import browser

PICTURE = pathlib.Path("docs/report.png")
_WIDTH, _HEIGHT = 1120, 1450
_COLUMNS = ("header", "#mistakes")
"""Where the columns of the picture begin, side by side."""


def take(page: pathlib.Path) -> Image.Image:
    """Take the picture of a page: its top, and from its mistakes on."""
    with browser.chromium(_WIDTH) as window:
        window.get(page.resolve().as_uri())
        columns = []
        for selector in _COLUMNS:
            element = f"document.querySelector('{selector}')"
            top = window.execute_script(f"return {element}.getBoundingClientRect().top + scrollY")
            clip = {"x": 0, "y": max(top - 24, 0), "width": _WIDTH, "height": _HEIGHT, "scale": 1}
            taken = window.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
            columns.append(Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB"))
    picture = Image.new("RGB", (sum(column.width for column in columns), _HEIGHT), "white")
    for number, column in enumerate(columns):
        picture.paste(column, (number * _WIDTH, 0))
    return picture


def main(arguments: list[str]) -> None:
    """Write the picture of the report of a run."""
    page = pathlib.Path(arguments[0] if arguments else "runs/cifar_deep") / "report.html"
    if not page.exists():
        sys.exit(f"There is no {page}: name a run, and make its report with --mode=report.")
    if not browser.is_installed():
        sys.exit("chromium and chromedriver are not installed: apt-get install chromium chromium-driver.")
    take(page).quantize(256).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
