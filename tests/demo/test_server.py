"""The server of the demo: what it answers, what it refuses, and with which headers."""

import base64
import concurrent.futures
import http.client
import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxconv.demo.server import MAX_BYTES, MOST_MAPS
from jaxconv.report import pictures
from tests.demo.common import call, net_of_digits, serving
from tests.test_predict import net_of

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
DIGIT = pictures.to_png(np.pad(np.full((200, 20, 1), 255, np.uint8), ((50, 50), (140, 140), (0, 0))))


@pytest.fixture(scope="module")
def port():
    with serving(net_of_digits(), run="<b>&") as port:
        yield port


def pixels(uri):
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def sentence(answer, status):
    """The one sentence of a refusal."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    (text,) = answer.json.values()
    assert re.fullmatch(r"[A-Z][^\n]*\.", text)
    return text


def test_an_answer(port):
    answer = call(port, "POST", "/look", DIGIT).json
    assert sorted(answer) == ["classes", "grad_cam", "saliency", "seen", "stages"]
    assert answer["classes"][0]["name"] == "1"
    probabilities = [each["probability"] for each in answer["classes"]]
    assert len(probabilities) == 10
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    seen = pixels(answer["seen"])
    assert seen.shape == (28, 28)
    assert set(np.flatnonzero(seen.any(axis=1))) == set(range(4, 24))  # as in MNIST
    assert pixels(answer["saliency"]).shape == pixels(answer["grad_cam"]).shape == (28, 28, 3)
    shapes = [(stage["height"], stage["width"], stage["channels"]) for stage in answer["stages"]]
    assert shapes == [(14, 14, 8), (7, 7, 16)]
    assert [pixels(stage["maps"]).shape for stage in answer["stages"]] == [(14 * 8, 14), (7 * 16, 7)]


def test_many_channels_many_classes_and_no_square(tiny):
    tiny.model.filters = ((MOST_MAPS + 3,),)
    with serving(net_of(tiny, (8, 12, 3))._replace(best={"val_accuracy": 0.25})) as port:
        page = call(port, "GET", "/").body.decode()
        assert re.search('<canvas id="canvas" width="400" height="267"', page)
        assert 'type="color"' in page
        assert "25.0%" in page
        image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
        answer = call(port, "POST", "/look", pictures.to_png(image)).json
        np.testing.assert_array_equal(pixels(answer["seen"]), image)
        (stage,) = answer["stages"]
        assert stage["channels"] == MOST_MAPS + 3
        assert pixels(stage["maps"]).shape == (4 * MOST_MAPS, 6)
        assert {each["name"] for each in answer["classes"]} == {"cat", "dog", "bird", "Größe"}


def test_a_net_without_stages(tiny):
    tiny.model.filters = ()
    with serving(net_of(tiny)._replace(best={"val_accuracy": 0.25})) as port:
        assert "maps" not in call(port, "GET", "/").body.decode()
        answer = call(port, "POST", "/look", DIGIT).json
        assert answer["stages"] == []
        assert answer["grad_cam"] is None


def test_the_page_escapes_names_and_has_no_inline_code(port):
    page = call(port, "GET", "/").body.decode()
    assert "<h1>&lt;b&gt;&amp;</h1>" in page
    assert "style=" not in page
    assert re.findall("<script[^>]*>(.*?)</script>", page) == [""]
    assert not re.search("<style|https?:|//", page)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/", 200, "text/html; charset=utf-8"),
        ("GET", "/page.css", 200, "text/css; charset=utf-8"),
        ("GET", "/page.js", 200, "text/javascript; charset=utf-8"),
        ("GET", "/server.py", 404, "text/plain; charset=utf-8"),
        ("GET", "/look", 405, "text/plain; charset=utf-8"),
        ("POST", "/", 405, "text/plain; charset=utf-8"),
        ("POST", "/look", 422, "application/json"),
    ],
)
def test_every_response_has_the_headers(port, method, path, status, kind):
    answer = call(port, method, path)
    assert (answer.status, answer.headers["content-type"]) == (status, kind)
    assert {name: answer.headers.get_all(name) for name in HEADERS} == {n: [value] for n, value in HEADERS.items()}


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]", "[::1]:8000"])
def test_names_of_this_machine(port, host):
    assert call(port, "GET", "/", headers={"Host": host}).status == 200


@pytest.mark.parametrize("host", ["example.com", "localhost.example.com:80", "127.0.0.1.nip.io", "[::2]:80", ":80", ""])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_name_is_refused(port, host, method):
    answer = call(port, method, "/look", headers={"Host": host})
    assert "is not called by this name" in sentence(answer, 400)
    assert answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://example.com"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_site_is_refused(port, headers):
    assert "another site" in sentence(call(port, "POST", "/look", DIGIT, headers), 403)


def test_the_own_page_is_not_refused(port):
    headers = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
    assert call(port, "POST", "/look", DIGIT, headers).status == 200
    tunnel = {"Host": "localhost:9000", "Origin": "https://localhost:9000"}
    assert call(port, "POST", "/look", DIGIT, tunnel).status == 200


def bomb(side):
    """A PNG of a few bytes that says it is large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "The file is empty."),
        (b"text", "The file is not a valid PNG, JPEG, WebP, BMP, GIF or TIFF image."),
        (DIGIT[:-30], "The file is truncated."),
        (bomb(10_000), "The file has 100,000,000 pixels, and the limit is 64,000,000."),
        (bomb(100_000), "The file has 10,000,000,000 pixels, and the limit is 64,000,000."),
    ],
)
def test_what_is_no_image(port, body, text):
    assert sentence(call(port, "POST", "/look", body), 422) == text


def test_too_large(port):
    said = {"Content-Length": str(MAX_BYTES + 1)}
    assert "more than 16 MiB" in sentence(call(port, "POST", "/look", b"", said), 413)
    sent = iter([bytes(1 << 20)] * 16 + [b"x"])  # in chunks, which do not say how many come
    assert "more than 16 MiB" in sentence(call(port, "POST", "/look", sent), 413)
    just_fits = iter([bytes(1 << 20)] * 16)
    assert "not a valid" in sentence(call(port, "POST", "/look", just_fits), 422)


def test_a_client_that_leaves(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/look", b"abc", {"Content-Length": "100"})
    connection.close()
    assert call(port, "POST", "/look", DIGIT).status == 200


def test_several_browsers(port):
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: call(port, "POST", "/look", DIGIT), range(24)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
