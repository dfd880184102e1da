"""What the page shows of an image: what the net says by --mode=predict, and what jaxconv.models.attribution finds."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from jaxconv import predict
from jaxconv.demo.look import compile_look
from jaxconv.errors import UserError
from jaxconv.models import attribution
from tests.demo.common import net_of_digits
from tests.test_predict import net_of


def as_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def drawn_seven():
    pixels = np.zeros((400, 400, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[60:90, 100:300, :3] = pixels[60:340, 270:300, :3] = 255
    return pixels


@pytest.mark.parametrize(("shape", "fit"), [((9, 6, 3), "pad"), ((8, 8, 1), "crop")])
def test_probabilities_are_those_of_predict(tiny, tmp_path, shape, fit):
    tiny.data.fit = fit
    net = net_of(tiny, shape)
    check_against_predict(net, as_png(noise(30, 20, 3)), tmp_path)


def test_a_drawn_digit_is_read_as_predict_reads_a_file(tmp_path):
    net = net_of_digits()
    look = check_against_predict(net, as_png(drawn_seven()), tmp_path)
    assert net.signature.class_names[look.probabilities.argmax()] == "7"


def check_against_predict(net, png, tmp_path):
    (tmp_path / "image.png").write_bytes(png)
    (result,) = predict.classify(net, net.config, [str(tmp_path / "image.png")], top=99)
    image = predict.reader(net)(png)
    look = compile_look(net)(image)
    names, probabilities = zip(*result.classes, strict=True)
    order = np.argsort(-look.probabilities, kind="stable")
    assert names == tuple(net.signature.class_names[i] for i in order)
    np.testing.assert_allclose(look.probabilities[order], probabilities, rtol=1e-4, atol=1e-7)
    return look


def test_maps_are_those_of_attribution():
    net = net_of_digits()
    image = predict.reader(net)(as_png(drawn_seven()))
    look = compile_look(net)(image)

    @jax.jit
    def separately(examples):
        logits, maps = attribution.feature_maps(net.model, net.variables, examples)
        arguments = net.model, net.variables, examples, logits.argmax(axis=-1)
        return [*maps, attribution.saliency(*arguments), attribution.grad_cam(*arguments)]

    expected = separately(net.signature.normalize(image[None]))
    for here, there in zip([*look.feature_maps, look.saliency, look.grad_cam], expected, strict=True):
        np.testing.assert_allclose(here, there[0], rtol=1e-4, atol=1e-5)
        assert np.ptp(here) > 0.1


def test_a_net_without_stages(tiny):
    tiny.model.filters = ()
    look = compile_look(net_of(tiny))(noise(8, 8, 3))
    assert look.feature_maps == ()
    assert look.grad_cam is None
    assert look.saliency.shape == (8, 8)


def test_a_net_that_is_not_finite(tiny):
    net = net_of(tiny)
    net = net._replace(variables=jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), net.variables))
    with pytest.raises(UserError, match="has parameters that are not finite"):
        compile_look(net)
