"""The page as a person uses it, in Chromium: draw, open, drop, clear."""

import json
import re

import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import chromium
from tests.demo.common import net_of_digits, serving
from tests.test_predict import net_of

ONE = [(0, -110), (0, 110)]
SEVEN = [(-80, -110), (80, -110), (-10, 120)]


@pytest.fixture(scope="module")
def port():
    with serving(net_of_digits(), run="digits") as port:
        yield port


def draw(window, points):
    """Draw a stroke, in CSS pixels from the middle of the canvas."""
    canvas = window.find_element(By.ID, "canvas")
    mouse = ActionChains(window, duration=50)
    for number, point in enumerate(points):
        mouse.move_to_element_with_offset(canvas, *point)
        if number == 0:
            mouse.click_and_hold()
    mouse.release().perform()


def wait(window, condition):
    return WebDriverWait(window, 20, poll_frequency=0.05).until(condition)


def settle(window):
    """Wait until the page has asked for its last picture, and shows the answer."""
    wait(window, lambda window: window.execute_script("return !asking && !wanted"))


def text(window, selector):
    return window.find_element(By.CSS_SELECTOR, selector).text


def maps(window):
    """The pixels of the first feature map of each stage."""
    return window.execute_script(
        "return [...document.querySelectorAll('.maps')].map((maps) => maps.querySelector('canvas').toDataURL())"
    )


def check_quiet(window, port):
    """Nothing went wrong, and nothing was asked of another host."""
    assert window.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    urls = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    page = f"http://127.0.0.1:{port}/"
    assert urls >= {page, f"{page}page.css", f"{page}page.js", f"{page}look"}
    assert not [url for url in urls if not url.startswith((page, "data:"))]


def test_a_drawn_digit(port):
    with chromium() as window:
        window.get(f"http://127.0.0.1:{port}/")
        assert text(window, "h1") == "digits"
        assert "95.0%" in text(window, "header")
        draw(window, ONE)
        settle(window)
        assert text(window, ".winner") == "1"
        assert window.find_element(By.ID, "spoken").get_attribute("textContent") == "The net says 1."
        name, share = text(window, "#classes li").split()
        assert name == "1"
        assert float(share.removesuffix("%")) > 50
        assert len(window.find_elements(By.CSS_SELECTOR, "#classes li")) == 10
        assert [
            len(stage.find_elements(By.TAG_NAME, "canvas")) for stage in window.find_elements(By.CLASS_NAME, "maps")
        ] == [8, 16]
        seen, before = window.find_element(By.ID, "seen").get_attribute("src"), maps(window)

        draw(window, [(-90, -110), (0, -110)])
        draw(window, [(-90, 110), (90, 110)])
        settle(window)
        after = maps(window)
        assert [a != b for a, b in zip(before, after, strict=True)] == [True, True]
        assert window.find_element(By.ID, "seen").get_attribute("src") != seen

        window.find_element(By.ID, "clear").click()
        assert not window.find_element(By.ID, "results").is_displayed()
        draw(window, SEVEN)
        settle(window)
        assert text(window, ".winner") == "7"
        check_quiet(window, port)


def test_on_a_phone(port):
    with chromium(390, 844, dark=True) as window:
        window.get(f"http://127.0.0.1:{port}/")
        draw(window, SEVEN)
        settle(window)
        assert text(window, ".winner") == "7"
        assert window.execute_script("return document.scrollingElement.scrollWidth") <= 390
        check_quiet(window, port)


def test_one_request_at_a_time(port):
    with chromium() as window:
        window.get(f"http://127.0.0.1:{port}/")
        window.execute_script(
            """
            const send = window.fetch;
            [window.sent, window.open, window.most] = [0, 0, 0];
            window.fetch = async (...request) => {
              [sent, open, most] = [sent + 1, open + 1, Math.max(most, open + 1)];
              await new Promise((resolve) => setTimeout(resolve, 300));
              return send(...request).finally(() => (open -= 1));
            };
            """
        )
        draw(window, [(x, y) for x in (-80, -20, 40, 90) for y in (-100, 100)])
        settle(window)
        assert window.execute_script("return [most, sent < 8]") == [1, True]


def test_files(tiny, tmp_path):
    Image.new("RGB", (60, 40), (250, 0, 0)).save(tmp_path / "red.png")
    Image.new("RGB", (60, 40), (0, 0, 250)).save(tmp_path / "blue.tiff")
    (tmp_path / "notes.png").write_text("text")
    (tmp_path / "large.png").write_bytes(bytes((16 << 20) + 1))
    with serving(net_of(tiny)._replace(best={"val_accuracy": 0.25})) as port, chromium() as window:
        window.get(f"http://127.0.0.1:{port}/")

        def open_file(name):
            window.find_element(By.ID, "file").send_keys(str(tmp_path / name))

        def colour():
            """The colour of the canvas, a quarter from its top and left."""
            script = "return [...pen.getImageData(canvas.width / 4, canvas.height / 4, 1, 1).data.slice(0, 3)]"
            return window.execute_script(script)

        assert colour() == [255, 255, 255]
        open_file("red.png")
        wait(window, lambda _: colour() == [250, 0, 0])
        seen = window.find_element(By.ID, "seen").get_attribute("src")
        draw(window, ONE)  # over the picture
        settle(window)
        assert colour() == [250, 0, 0]
        assert window.find_element(By.ID, "seen").get_attribute("src") != seen

        open_file("notes.png")
        wait(window, lambda window: text(window, "#error"))
        assert text(window, "#error") == "The file is not a valid PNG, JPEG, WebP, BMP, GIF or TIFF image."
        assert colour() == [250, 0, 0]
        open_file("large.png")
        wait(window, lambda window: "make it smaller" in text(window, "#error"))
        open_file("blue.tiff")  # which Chromium cannot show, and the net reads
        wait(window, lambda window: text(window, "#error") == "")
        assert colour() == [255, 255, 255]

        give = """
            const [kind] = arguments;
            const black = document.createElement("canvas");
            black.getContext("2d").fillRect(0, 0, 300, 150);
            black.toBlob((blob) => {
              const given = new DataTransfer();
              given.items.add(new File([blob], "black.png"));
              const event = kind === "paste"
                ? new ClipboardEvent(kind, { clipboardData: given })
                : new DragEvent(kind, { dataTransfer: given });
              document.dispatchEvent(event);
            });
        """
        for kind in ("drop", "paste"):
            window.execute_script(give, kind)
            wait(window, lambda _: colour() == [0, 0, 0])
            window.find_element(By.ID, "clear").click()
        (console,) = window.get_log("browser")  # Chromium's line for the file that is no image
        assert re.search("/look - .* 422", console["message"])
