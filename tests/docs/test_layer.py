"""docs/layer.html computes what jax.lax does."""

import itertools

import jax
import numpy as np
import pytest
from jax import lax

from tests.browser import chromium
from tests.conftest import ROOT

SET = """
for (const [id, value] of Object.entries(arguments[0])) {
  const control = document.getElementById(id);
  control.value = value;
  control.dispatchEvent(new Event("input"));
}
const number = (cell) => Number(cell.dataset.value ?? cell.value ?? cell.textContent);
const values = (selector) => [...document.querySelectorAll(selector)].map(number);
return {
  image: values("#input div:not(.padding)"), kernel: values("#kernel input"), output: values("#output div"),
  padded: document.querySelectorAll("#input div").length, seen: document.querySelectorAll(".seen").length,
  shape: document.getElementById("output_shape").textContent, sum: document.getElementById("sum").textContent,
};
"""


@pytest.fixture(scope="module")
def page():
    with chromium(dark=True) as window:
        window.get((ROOT / "docs" / "layer.html").as_uri())
        yield window


def by_lax(x, kernel, operation, window, stride, dilation, padding):
    """What jax.lax makes of an input (rows, columns)."""
    x, sides = x[None, :, :, None], (1, window, window, 1)
    steps, apart = (stride, stride), (dilation, dilation)
    if operation == "convolution":
        layout = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            x,
            kernel[:, :, None, None],
            steps,
            padding,
            rhs_dilation=apart,
            dimension_numbers=layout,
            precision="highest",
        )
    else:

        def reduce(x, start, function):
            return lax.reduce_window(x, start, function, sides, (1, *steps, 1), padding, window_dilation=(1, *apart, 1))

        if operation == "max":
            y = reduce(x, -np.inf, lax.max)
        else:
            y = reduce(x, 0.0, lax.add) / reduce(np.ones_like(x), 0.0, lax.add)
    return np.asarray(jax.device_get(y))[0, :, :, 0]


@pytest.mark.parametrize("operation", ["convolution", "max", "average"])
def test_the_page_computes_what_jax_does(page, operation):
    sizes = itertools.product((5, 8, 12), (1, 2, 3, 5), (1, 2, 3), (1, 2, 3), ("VALID", "SAME"))
    checked = 0
    for size, window, stride, dilation, padding in list(sizes)[::5]:
        controls = {"input_size": size, "window_size": window, "stride": stride, "dilation": dilation}
        shown = page.execute_script(
            SET, controls | {"padding": padding, "operation": operation, "preset": "horizontal"}
        )
        if dilation * (window - 1) + 1 > size and padding == "VALID":
            assert (shown["output"], shown["shape"]) == ([], "nothing: the window is larger than the input")
            continue
        x = np.array(shown["image"], np.float32).reshape(size, size)
        assert set(np.unique(x)) == {0, 1}
        kernel = np.array(shown["kernel"] or [0], np.float32).reshape(-1, window if shown["kernel"] else 1)
        expected = by_lax(x, kernel, operation, window, stride, dilation, padding)
        message = f"{operation} {controls} {padding}"
        assert shown["shape"] == "{0} \u00d7 {0}".format(len(expected)), message
        np.testing.assert_allclose(shown["output"], expected.ravel(), atol=1e-5, err_msg=message)
        assert shown["seen"] == window**2, message
        checked += 1
    assert checked > 30


def test_input_and_kernel_can_be_changed(page):
    page.execute_script(SET, {"operation": "convolution", "preset": "copy", "input_size": 6, "window_size": 3})
    before = page.execute_script(SET, {"stride": 1, "dilation": 1, "padding": "SAME"})
    assert before["output"] == before["image"]  # the kernel copies
    page.execute_script("document.querySelector('#input div:not(.padding)').click()")
    page.execute_script(
        "const weight = document.querySelectorAll('#kernel input')[4]; weight.value = -2.5;"
        "weight.dispatchEvent(new Event('input'))"
    )
    after = page.execute_script(SET, {})
    assert after["image"] == [1 - before["image"][0], *before["image"][1:]]
    assert after["output"] == [-2.5 * value for value in after["image"]]


def test_the_arrow_keys_move_the_window_and_the_sum_follows(page):
    page.execute_script(SET, {"operation": "max", "input_size": 4, "window_size": 2, "stride": 2, "padding": "VALID"})
    press = "document.getElementById('output').dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0]}))"
    said = []
    for key in ("ArrowUp", "ArrowLeft", "ArrowRight", "ArrowRight", "ArrowDown"):
        page.execute_script(press, key)
        said.append(page.execute_script("return document.getElementById('sum').textContent.split(':')[0]"))
    places = [tuple(map(int, (line.split()[1].rstrip(","), line.split()[3]))) for line in said]
    assert places[1:] == [(1, 1), (1, 2), (1, 2), (2, 2)]


def test_the_page_asks_nothing_of_other_hosts_and_fits_a_phone():
    with chromium(390) as window:
        window.get((ROOT / "docs" / "layer.html").as_uri())
        window.execute_script(SET, {"input_size": 12, "padding": "SAME", "window_size": 5})
        assert window.execute_script("return document.documentElement.scrollWidth") == 390
        assert not window.get_log("browser")
    assert "http" not in (ROOT / "docs" / "layer.html").read_text()
