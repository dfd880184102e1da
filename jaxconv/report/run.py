"""The report of a run: it gathers what the run left, draws it, and writes report.html and figures/."""

import datetime
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv import experiment, predict, preview
from jaxconv.config import Config, flatten
from jaxconv.data import augment, sources
from jaxconv.data.examples import Examples
from jaxconv.errors import UserError
from jaxconv.models import attribution, registry, summary
from jaxconv.parallel.mesh import make_mesh
from jaxconv.platform.limits import cores
from jaxconv.platform.threads import ahead
from jaxconv.report import charts, examples, layers, measures, page
from jaxconv.report.page import Figure
from jaxconv.runs import predictions as kept
from jaxconv.runs import signature, trained
from jaxconv.runs import workdir as files
from jaxconv.runs.predictions import Predictions
from jaxconv.runs.trained import Trained

MISTAKES, HARD, SAMPLES, CHOSEN = 12, 28, 28, 3
"""The number of the most confident mistakes, of the least certain right answers, of training examples, and of examples
whose feature maps are drawn."""

_BATCH = 256


class Data(NamedTuple):
    """The examples of a run, as far as they are still there."""

    train: Examples | None
    evaluated: Examples | None
    """The split of the predictions."""
    note: str | None
    """Why they are not."""


class Card(NamedTuple):
    """An example with what the net says of it."""

    figure: Figure
    place: int
    """Its index in the split, from 0."""
    true: str
    predicted: str
    probability: float
    of_true: float
    """The probability of the true class."""


def report(config: Config, workdir: pathlib.Path) -> pathlib.Path:
    """Write the report of the best epoch so far of a run. It may run beside a training.

    A finished run shows its test set, by the predictions that it kept. Before that the test set stays closed, and the
    report shows the validation split: there is no report yet of a run without one.

    Returns:
        The path of report.html in `workdir`.

    Raises:
        UserError: there is no run with a finished epoch, a file of it is broken, no predictions were kept and its data
            is gone or has no validation split, or the report cannot be written.
    """
    config = experiment.resolve(config, files.read_config(workdir))
    files.check(workdir, config)
    net, history, finished = trained.load(workdir), files.read_history(workdir), files.read_summary(workdir)
    predictions = kept.read(workdir) if finished else None
    if predictions is None and config.data.validation is None:
        raise UserError(
            f"The run in {workdir} has no predictions of its test set, and no validation split to report instead: "
            "train it to its end with --mode=train."
        )
    data = _open_data(config, workdir, net, predictions)
    if predictions is None:
        if data.evaluated is None:
            raise UserError(f"The run in {workdir} kept no predictions, and its data cannot be read. {data.note}")
        predictions = _predict(config, net, data.evaluated)
    sections = {
        **_scores(workdir, net, finished, predictions),
        **_charts(history, net, predictions),
        **_cards(net, data, predictions),
        "samples": _samples(net, data),
        "augmented": _augmented(config, data),
        "filters": layers.filters(net.variables, net.signature.image_shape),
        "stages": _stages(net, data, predictions),
        "layers": summary.layers(summary.trace(net.model, net.signature.image_shape)),
        "note": data.note,
    }
    html = page.render("run.html", **sections)
    figures = jax.tree.leaves(sections, is_leaf=lambda value: isinstance(value, Figure))
    page.save_figures(workdir / "figures", [figure for figure in figures if isinstance(figure, Figure)])
    files.write_atomically(path := workdir / "report.html", html)
    return path


def is_current(workdir: pathlib.Path) -> bool:
    """Return whether the report of a finished run is not older than its end."""
    paths = [workdir / name for name in ("summary.json", "report.html")]
    if not all(path.exists() for path in paths):
        return False
    finished, made = (path.stat().st_mtime_ns for path in paths)
    return made >= finished


# ---- What the run left


def _open_data(config: Config, workdir: pathlib.Path, net: Trained, predictions: Predictions | None) -> Data:
    """Load the training split, and the one of the predictions: of validation, where there are none yet."""
    try:
        source = sources.open_source(config.data)
        train = source.load(config.data.train)
        evaluated = source.load(config.data.validation if predictions is None else predictions.split)
        here = net.signature._replace(
            class_names=source.class_names,
            image_shape=train.images.shape[1:],
            dtype=train.images.dtype.name,
            train_examples=len(train.labels),
        )
        signature.check(workdir, here)
    except UserError as error:
        return Data(None, None, str(error))
    if predictions is not None and not np.array_equal(evaluated.labels, predictions.label):
        return Data(None, None, f"The split {predictions.split!r} has changed since the run predicted its classes.")
    return Data(train, evaluated, None)


def _predict(config: Config, net: Trained, split: Examples) -> Predictions:
    mesh = make_mesh(config.num_devices, config.batch_size)
    size = mesh.size * (_BATCH // mesh.size or 1)
    forward = predict.compile_forward(net, config, mesh, size, config.evaluation.views)
    starts = range(0, len(split.labels), size)
    # Images that are not in memory are decoded meanwhile.
    batches = ahead(lambda start: split.images[start : start + size], starts, threads=cores(), most=cores())
    probabilities = np.concatenate([forward(batch) for batch in batches])
    return Predictions(config.data.validation, split.labels, probabilities)


# ---- Numbers


def _scores(
    workdir: pathlib.Path, net: Trained, finished: dict[str, Any] | None, predictions: Predictions
) -> dict[str, Any]:
    """Gather what the page says in words and tables."""
    correct = int(np.sum(predictions.predicted == predictions.label))
    config, defaults = flatten(net.config), flatten(files.defaults(net.config.model.name))
    command = workdir / "command.txt"
    return {
        "title": workdir.name,
        "config": config,
        "changed": {key: value for key, value in config.items() if value != defaults[key]},
        "finished": finished,
        "best": net.best,
        "num_epochs": net.config.num_epochs,
        "split": f"{'test' if finished else 'validation'} split {predictions.split!r}",
        "kind": "Test" if finished else "Validation",
        "examples": len(predictions.label),
        "accuracy": correct / len(predictions.label),
        "interval": measures.interval(correct, len(predictions.label)),
        "wrong": len(predictions.label) - correct,
        "classes": list(zip(net.signature.class_names, measures.by_class(predictions), strict=True)),
        "bins": measures.BINS,
        "ece": measures.reliability(predictions).ece,
        "num_params": registry.num_params(net.variables["params"]),
        "image_shape": net.signature.image_shape,
        "train_examples": net.signature.train_examples,
        "command": command.read_text().strip() if command.exists() else None,
        "versions": finished["versions"] if finished else files.versions(),
        "made": datetime.date.today().isoformat(),
    }


# ---- Figures


def _charts(history: list[dict[str, Any]], net: Trained, predictions: Predictions) -> dict[str, Figure | None]:
    split = f"the split {predictions.split!r}"
    drawn: dict[str, Figure | None] = {}
    for measure in ("loss", "accuracy") if history else ():
        keys = {f"train_{measure}": "training"}
        alt = f"The {measure} by epoch on the training split."
        if net.best["val_accuracy"] is not None:
            keys[f"val_{measure}"] = "validation"
            alt = (
                f"The {measure} by epoch on the training and the validation split. Epoch {net.best['epoch']} is the "
                f"best, with a validation {measure} of {net.best[f'val_{measure}'] or float('nan'):.4f}."
            )
        drawn[f"{measure}_curve"] = charts.curves({"": history}, keys, measure, f"{measure}.svg", alt)
    return (
        {"loss_curve": None, "accuracy_curve": None}
        | drawn
        | {
            "confusion": charts.confusion(measures.confusion(predictions), net.signature.class_names, split),
            "reliability": charts.reliability(measures.reliability(predictions), split),
        }
    )


def _cards(net: Trained, data: Data, predictions: Predictions) -> dict[str, list[Card]]:
    """Draw the most confident mistakes, with maps of what mattered, and the right answers that are least certain."""
    if data.evaluated is None:
        return {"mistakes": [], "hard": []}
    predicted = predictions.predicted
    confidence = predictions.probabilities.max(axis=1)
    wrong, right = (np.flatnonzero(found) for found in (predicted != predictions.label, predicted == predictions.label))
    mistakes = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    hard = right[np.argsort(confidence[right], kind="stable")][:HARD]
    maps = _maps(net, data.evaluated.images[mistakes], predicted[mistakes])
    return {
        "mistakes": [
            _card(net, data.evaluated, predictions, index, f"mistake_{number}", saliency=saliency, places=places)
            for number, (index, saliency, places) in enumerate(zip(mistakes, *maps, strict=True), start=1)
        ],
        "hard": [
            _card(net, data.evaluated, predictions, index, f"hard_{number}")
            for number, index in enumerate(hard, start=1)
        ],
    }


def _card(net: Trained, split: Examples, predictions: Predictions, index: int, name: str, **maps: Any) -> Card:
    label, predicted = predictions.label[index], predictions.predicted[index]
    names = net.signature.class_names
    alt = f"Example {index}, of class {names[label]}, predicted as {names[predicted]}."
    return Card(
        figure=examples.draw(split.images[index], name, alt, **maps),
        place=int(index),
        true=names[label],
        predicted=names[predicted],
        probability=float(predictions.probabilities[index, predicted]),
        of_true=float(predictions.probabilities[index, label]),
    )


def _maps(net: Trained, images: np.ndarray, classes: np.ndarray) -> tuple[Any, Any]:
    """Compute saliency and Grad-CAM of each example; None for each where the net has no stages."""
    if not len(images):
        return [], []

    @jax.jit
    def compute(variables: dict, batch: jax.Array) -> tuple[Any, Any]:
        normalized = net.signature.normalize(batch)
        return (
            attribution.saliency(net.model, variables, normalized, jnp.asarray(classes)),
            attribution.grad_cam(net.model, variables, normalized, jnp.asarray(classes)),
        )

    saliency, places = compute(net.variables, images)
    return np.asarray(saliency), [None] * len(images) if places is None else np.asarray(places)


def _samples(net: Trained, data: Data) -> list[tuple[Figure, str]]:
    """Draw training examples, each with the name of its class."""
    if data.train is None:
        return []
    names = [net.signature.class_names[label] for label in data.train.labels[:SAMPLES]]
    return [
        (examples.draw(image, f"sample_{number}", f"A training example of class {name}."), name)
        for number, (image, name) in enumerate(zip(data.train.images[:SAMPLES], names, strict=True), start=1)
    ]


def _augmented(config: Config, data: Data) -> Figure | None:
    if data.train is None or not augment.is_on(config.augment) or not preview.can_draw(data.train.images.shape[1:]):
        return None
    with charts.style():
        drawing = preview.draw(data.train, config)
        alt = "Training examples in rows: each as it is, and as the first epochs augment it."
        return charts.to_figure(drawing, "augmented.svg", alt)


class Stages(NamedTuple):
    """An example, and the feature maps of each stage for it."""

    name: str
    """The name of its class."""
    example: Figure
    maps: list[Figure]


def _stages(net: Trained, data: Data, predictions: Predictions) -> list[Stages]:
    """Draw the feature maps of each stage for the most certain right answers of different classes."""
    if data.evaluated is None:
        return []
    certain = np.where(predictions.predicted == predictions.label, predictions.probabilities.max(axis=1), -1)
    labels = np.unique(predictions.label)
    of_label = [int(np.argmax(np.where(predictions.label == label, certain, -1))) for label in labels]
    chosen = [index for index in of_label if certain[index] > 0][:CHOSEN]
    read = jax.jit(attribution.feature_maps, static_argnums=0)
    _, stages = read(net.model, net.variables, net.signature.normalize(data.evaluated.images[chosen]))
    rows = []
    for row, index in enumerate(chosen if stages else []):
        name = net.signature.class_names[predictions.label[index]]
        example = examples.draw(data.evaluated.images[index], f"chosen_{row + 1}", f"An example of class {name}.")
        maps = [
            layers.feature_maps(
                np.asarray(of_stage[row]), f"stage_{stage}_{row + 1}", f"Feature maps of stage {stage} for a {name}."
            )
            for stage, of_stage in enumerate(stages, start=1)
        ]
        rows.append(Stages(name, example, maps))
    return rows
