"""Images that are not in memory: the same batches, runs and findings as those that are."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxconv import experiment
from jaxconv.config import default_config
from jaxconv.config import load as load_config
from jaxconv.data import examples, pipeline
from jaxconv.data.encoded import Encoded, join
from jaxconv.data.examples import Examples
from jaxconv.data.sources import SOURCES, open_source
from jaxconv.data.tensorflow import import_tfds
from jaxconv.errors import ConfigError, UserError
from jaxconv.evaluate import evaluate
from jaxconv.platform import limits
from jaxconv.preview import preview
from jaxconv.report.run import report
from jaxconv.train import train
from tests.conftest import ROOT, launch, prepare, read, start, wait_for_step

SHAPE = (12, 10, 3)


def photo(rng, height, width):
    """Random smooth colours, which a JPEG changes little."""
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def write_folder(root, **counts):
    """Write images of several formats and sizes: so many for each class of each split, such as train__a=5."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True)
        for number in range(count):
            height, width = rng.integers(10, 40, 2)
            photo(rng, height, width).save(folder / f"{number:03}.{('png', 'jpg', 'bmp')[number % 3]}")
    return root


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A folder of images, and two sets of TFDS, of PNG and of JPEG."""
    directory, features = tmp_path_factory.mktemp("sets"), import_tfds().features
    splits = {"train": 40, "validation": 9, "test": 9}
    write_folder(directory / "folder", **{f"{split}__{name}": n for split, n in splits.items() for name in "abc"})
    for encoding in ("png", "jpeg"):
        rng = np.random.default_rng(0)
        made = {
            split: [{"image": np.asarray(photo(rng, *SHAPE[:2])), "label": i % 3} for i in range(3 * n)]
            for split, n in splits.items()
        }
        image = features.Image(shape=SHAPE, encoding_format=encoding)
        prepare(encoding, directory, {"image": image, "label": features.ClassLabel(num_classes=3)}, made)
    return directory


KINDS = ("folder", "png", "jpeg")


def config_of(directory, kind, in_memory):
    config = load_config(str(ROOT / "configs" / "image_folder.py"))
    config.data.dir, config.data.image_size = str(directory / "folder"), SHAPE[:2]
    if kind != "folder":
        config.data.name, config.data.data_dir = kind, str(directory)
    config.data.in_memory = in_memory
    config.model.filters, config.num_epochs, config.batch_size, config.report = ((4,),), 2, 16, False
    config.num_devices = 1
    return config


def both(directory, kind, split):
    """A split in memory, and not."""
    return [open_source(config_of(directory, kind, answer).data).load(split) for answer in ("yes", "no")]


def encoded(array):
    return Encoded(list(array), array.shape[1:], decode=np.array, identity=bytes)


NUMBERS = np.random.default_rng(0).integers(0, 256, (20, 3, 2, 1)).astype(np.uint8)


# ---- Indices


@settings(max_examples=100, deadline=None)
@given(index=st.integers(-20, 19) | st.lists(st.integers(-20, 19)) | st.slices(20))
def test_an_index_selects_as_that_of_an_array(index):
    images = encoded(NUMBERS)
    expected = NUMBERS[index]
    for form in (index, np.array(index, int)) if not isinstance(index, slice) else (index,):
        np.testing.assert_array_equal(images[form], expected)
        assert images[form].dtype == np.uint8


def test_it_looks_like_the_array():
    images = encoded(NUMBERS)
    assert (images.shape, images.dtype, images.ndim, len(images)) == (NUMBERS.shape, NUMBERS.dtype, 4, 20)
    np.testing.assert_array_equal(np.concatenate(list(images.chunks())), NUMBERS)
    with pytest.raises(IndexError):
        images[20]


@given(parts=st.lists(st.slices(20), min_size=1, max_size=4))
def test_slices_are_joined_without_decoding(parts):
    images = encoded(NUMBERS)
    joined = join([(images, part) for part in parts])
    assert isinstance(joined, Encoded)
    np.testing.assert_array_equal(joined[:], join([(NUMBERS, part) for part in parts]))


def test_a_digest_tells_contents_and_shapes_apart():
    digests = [encoded(NUMBERS), encoded(NUMBERS[1:]), encoded(NUMBERS.reshape(20, 2, 3, 1)), encoded(255 - NUMBERS)]
    assert len({images.digest() for images in digests}) == 4
    assert encoded(NUMBERS).digest() == encoded(NUMBERS.copy()).digest()


# ---- Equal to images in memory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "test", "train[:50%]", "train[30%:70%]", "validation+test[:3]"])
def test_a_split_is_the_one_in_memory(directory, kind, split):
    kept, lazy = both(directory, kind, split)
    assert isinstance(kept.images, np.ndarray)
    assert isinstance(lazy.images, Encoded)
    np.testing.assert_array_equal(lazy.images[:], kept.images)
    np.testing.assert_array_equal(lazy.labels, kept.labels)
    for ours, expected in zip(pipeline.fit_normalizer(lazy), pipeline.fit_normalizer(kept), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_batches_are_those_in_memory_bit_for_bit(directory, kind, data):
    kept, lazy = both(directory, kind, "train")
    processes, share = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 50))
    process, seed = data.draw(st.integers(0, processes - 1)), data.draw(st.integers(0, 2**31 - 1))
    batch_size, rows = processes * share, slice(process * share, (process + 1) * share)
    end = 3 * pipeline.steps_per_epoch(kept, batch_size)
    start = data.draw(st.integers(0, end))
    augmentation = load_config(str(ROOT / "configs" / "cifar_deep_augment_plus.py")).augment
    augmentation.noise, augmentation.contrast, augmentation.cutout = 0.1, 0.2, 3
    augmentation = data.draw(st.sampled_from([augmentation, None]))
    normalizer, batches = pipeline.fit_normalizer(kept), []
    for of in (kept, lazy):
        trained = pipeline.train_batches(
            of,
            normalizer,
            batch_size=batch_size,
            seed=seed,
            start_step=start,
            end_step=end,
            augmentation=augmentation,
            rows=rows,
        )
        batches.append([*trained, *pipeline.eval_batches(of, normalizer, batch_size=batch_size, rows=rows)])
    for ours, expected in zip(*reversed(batches), strict=True):
        assert ours.keys() == expected.keys()
        for name, array in ours.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])


def test_a_process_decodes_its_own_rows_alone():
    decoded = []
    images = Encoded(
        list(NUMBERS), NUMBERS.shape[1:], decode=lambda items: decoded.extend(items) or np.array(items), identity=bytes
    )
    split = Examples(images, np.arange(20, dtype=np.int32))
    normalizer = pipeline.Normalizer(np.zeros(1, np.float32), np.ones(1, np.float32))
    batches = pipeline.eval_batches(split, normalizer, batch_size=8, rows=slice(4, 8))
    assert [batch["label"][batch["weight"] > 0].tolist() for batch in batches] == [[4, 5, 6, 7], [12, 13, 14, 15], []]
    assert len(decoded) == 9  # 4, 4, and one in place of the padding


# ---- Runs


@pytest.mark.parametrize("kind", ["folder", "jpeg"])
def test_a_run_is_the_one_in_memory(directory, kind, tmp_path):
    summaries = {}
    for in_memory in ("yes", "no"):
        config = config_of(directory, kind, in_memory)
        config.class_weights = "balanced"
        summaries[in_memory] = train(config, tmp_path / in_memory)
    assert summaries["no"]["params_sha256"] == summaries["yes"]["params_sha256"]
    (history, ours), (expected_history, expected) = read(tmp_path / "no"), read(tmp_path / "yes")
    assert history == expected_history
    assert ours["config"]["data"].pop("in_memory") == "no"
    assert expected["config"]["data"].pop("in_memory") == "yes"
    assert ours == expected
    assert (tmp_path / "no/signature.json").read_text() == (tmp_path / "yes/signature.json").read_text()

    config = config_of(directory, kind, "no")
    config.class_weights = "balanced"
    scores = evaluate(config, tmp_path / "yes")  # the field may change between two starts
    assert scores["test_loss"] == expected["test_loss"]
    preview(config, tmp_path / "no")
    for name in ("no", "yes"):
        report(config, tmp_path / name)
    figures = [sorted(path.name for path in (tmp_path / name / "figures").glob("*.png")) for name in ("no", "yes")]
    assert set(figures[0]) - {"preview.png"} == set(figures[1])
    assert {"sample_1.png", "sample_28.png", "mistake_1.png", "hard_1.png", "chosen_1.png"} <= set(figures[1])
    for name in figures[1]:
        assert (tmp_path / "no/figures" / name).read_bytes() == (tmp_path / "yes/figures" / name).read_bytes()


def arguments_of(root, epochs):
    small = ["--config=configs/image_folder.py", f"--config.data.dir={root}", "--config.data.image_size=12"]
    small += ["--config.model.filters=((4,),)", "--config.batch_size=16", "--config.num_devices=1"]
    return [*small, f"--config.num_epochs={epochs}", "--config.checkpoint_every_steps=3", "--config.report=False"]


def test_a_killed_run_on_a_folder_goes_on_as_if_nothing_had_happened(directory, tmp_path):
    small = arguments_of(directory / "folder", epochs=5)
    launch(*small, f"--workdir={tmp_path}/whole", "--config.data.in_memory=yes")
    arguments = [*small, f"--workdir={tmp_path}/run", "--config.data.in_memory=no"]
    process = start(*arguments)
    wait_for_step(tmp_path / "run", 11, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    resumed = launch(*arguments)
    assert int(re.search(r"Resumed at step (\d+) of 40\.", resumed.stderr)[1]) >= 11
    (history, ours), (expected_history, expected) = read(tmp_path / "run"), read(tmp_path / "whole")
    assert (history, ours["params_sha256"]) == (expected_history, expected["params_sha256"])
    images = directory / "folder" / "test" / "a"
    predicted = launch(*arguments, "--mode=predict", f"--images={images}").stdout
    assert len(predicted.splitlines()) == 9


def test_sigterm_in_an_epoch_ends_the_run_at_once(directory, tmp_path):
    arguments = arguments_of(directory / "folder", epochs=100_000)
    process = start(*arguments, f"--workdir={tmp_path}/run", "--config.data.in_memory=no")
    wait_for_step(tmp_path / "run", 3, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_a_file_that_goes_while_a_run_trains_ends_it_with_one_sentence(directory, tmp_path):
    root = shutil.copytree(directory / "folder", tmp_path / "folder")
    process = start(*arguments_of(root, 100_000), f"--workdir={tmp_path}/run", "--config.data.in_memory=no")
    wait_for_step(tmp_path / "run", 3, process)
    (root / "train/a/004.jpg").unlink()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == (
        f"launch.py: The file 'train/a/004.jpg' in {str(root)!r} has changed since this run began (it cannot be "
        "opened: no such file or directory): run it again."
    )


# ---- Threads


def test_batches_that_are_dropped_end_their_threads(directory):
    (_, lazy), before = both(directory, "folder", "train"), threading.active_count()
    normalizer = pipeline.fit_normalizer(lazy)
    batches = pipeline.train_batches(lazy, normalizer, batch_size=8, seed=0, start_step=1, end_step=10**6)
    next(iter(batches))
    assert threading.active_count() > before
    del batches
    assert threading.active_count() == before


def test_a_process_may_end_before_its_batches(directory):
    code = """
import sys
from jaxconv.config import default_config
from jaxconv.data import pipeline
from jaxconv.data.sources import open_source
data = default_config().data
data.name, data.data_dir, data.in_memory = "png", sys.argv[1], "no"
train = open_source(data).load("train")
normalizer = pipeline.fit_normalizer(train)
batches = pipeline.train_batches(train, normalizer, batch_size=16, seed=0, start_step=1, end_step=10**6)
next(batches)
if len(sys.argv) > 2:
    raise KeyboardInterrupt
"""
    subprocess.run([sys.executable, "-c", code, directory], timeout=120, check=True, cwd=ROOT)
    interrupted = subprocess.run(
        [sys.executable, "-c", code, directory, "interrupt"], timeout=120, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert interrupted.stderr.endswith("KeyboardInterrupt\n")


# ---- Files that are bad, or change


def test_what_a_folder_finds_is_what_it_finds_in_memory(directory, tmp_path):
    root = shutil.copytree(directory / "folder", tmp_path / "folder")
    (root / "train/a/000.png").write_bytes(b"")
    (root / "train/b/broken.jpg").write_bytes((root / "train/b/001.jpg").read_bytes()[:300])
    shutil.copy(root / "train/c/002.bmp", root / "test/c/copy.bmp")
    kept, lazy = (open_source(config_of(tmp_path, "folder", answer).data) for answer in ("yes", "no"))
    assert lazy.examine() == kept.examine()
    assert lazy.examine().counts == {"unreadable_files": 2, "duplicates": 1}
    ours, expected = lazy.load("train"), kept.load("train")
    assert len(ours.labels) == 119
    np.testing.assert_array_equal(ours.images[:], expected.images)


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


def repaint(path):
    Image.new("RGB", (20, 20), "red").save(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (repaint, "has other pixels"),
        (truncate, "is not a valid .*|is truncated"),
        (lambda path: path.unlink(), "cannot be opened: no such file or directory"),
    ],
    ids=["repaint", "truncate", "remove"],
)
def test_a_file_that_changes_in_a_run_is_one_sentence(directory, tmp_path, change, problem):
    root = shutil.copytree(directory / "folder", tmp_path / "folder")
    setup = experiment.set_up(experiment.resolve(config_of(tmp_path, "folder", "no")))
    change(root / "train/b/003.png")
    batches = pipeline.train_batches(
        setup.train, setup.normalizer, batch_size=16, seed=0, start_step=0, end_step=setup.steps_per_epoch
    )
    with pytest.raises(UserError, match="has changed since this run began") as refusal:
        list(batches)
    assert re.fullmatch(
        rf"The file 'train/b/003.png' in '.*' has changed since this run began \(it ({problem})\): run it again\.",
        str(refusal.value),
    )


def test_an_image_of_tfds_that_cannot_be_decoded_is_one_sentence(tmp_path):
    features = import_tfds().features
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n no more")
    made = [{"image": np.zeros(SHAPE, np.uint8), "label": 0}, {"image": str(broken), "label": 1}]
    described = {"image": features.Image(shape=SHAPE), "label": features.ClassLabel(num_classes=2)}
    prepare("bad", tmp_path, described, {"train": made})
    for in_memory in ("yes", "no"):
        config = config_of(tmp_path, "bad", in_memory)
        with pytest.raises(UserError, match="The split 'train' of 'bad' in .* cannot be read: see to the disk, or"):
            pipeline.fit_normalizer(open_source(config.data).load("train"))


# ---- Memory


@pytest.mark.parametrize("kind", KINDS)
def test_auto_decides_by_the_decoded_bytes_and_the_free_memory(directory, kind, monkeypatch):
    def is_kept(split="train"):
        loaded = open_source(config_of(directory, kind, "auto").data).load(split)
        return isinstance(loaded.images, np.ndarray)

    decoded = (120 + 27 + 27 if kind == "folder" else 120) * int(np.prod(SHAPE))
    assert is_kept()
    for name, least in (("MOST_IN_MEMORY", decoded), ("free_memory", 2 * decoded)):
        for value in (least, least - 1):
            with monkeypatch.context() as patch:
                if name == "free_memory":
                    patch.setattr(limits, name, lambda value=value: value)
                else:
                    patch.setattr(examples, name, value)
                assert is_kept() == (value == least)


def test_yes_refuses_what_does_not_fit_and_names_no(directory, monkeypatch):
    monkeypatch.setattr(limits, "free_memory", lambda: 1000)
    for kind in KINDS:
        with pytest.raises(ConfigError, match="takes .* of memory .* are free: set config.data.in_memory='no', or "):
            open_source(config_of(directory, kind, "yes").data).load("train")


@pytest.mark.parametrize("name", SOURCES)
def test_sets_that_are_made_in_memory_stay_there(name):
    data = default_config().data
    data.name, data.in_memory = name, "no"
    with pytest.raises(ConfigError, match=f"config.data.in_memory='no' is for .* config.data.name='{name}' are made"):
        open_source(data)


def test_sets_without_encoded_images_stay_in_memory(tmp_path):
    features = import_tfds().features
    label = features.ClassLabel(num_classes=2)
    for number, feature in enumerate(
        [
            features.Audio(shape=(50,)),
            features.Tensor(shape=SHAPE, dtype=np.uint8),
            features.Image(shape=(8, 8, 1), dtype=np.uint16),
        ]
    ):
        value = np.zeros(feature.shape, feature.np_dtype)
        name = f"other{number}"
        prepare(name, tmp_path, {"input": feature, "label": label}, {"train": [{"input": value, "label": 0}]})
        with pytest.raises(ConfigError, match=f"'no' is for encoded images of bytes, and .*={name!r} are .*'auto'"):
            open_source(config_of(tmp_path, name, "no").data)
        assert isinstance(open_source(config_of(tmp_path, name, "auto").data).load("train").images, np.ndarray)


def test_neither_the_examination_nor_the_statistics_hold_the_pixels(tmp_path, monkeypatch):
    """Each image is decoded to a million bytes."""
    monkeypatch.setenv("JAXCONV_CACHE", "off")
    write_folder(tmp_path / "folder", train__a=40, train__b=40, validation__a=1, validation__b=1, test__a=1, test__b=1)
    config = config_of(tmp_path, "folder", "no")
    config.data.image_size = 600
    tracemalloc.start()
    try:
        source = open_source(config.data)
        source.examine()
        loaded = source.load("train")
        pipeline.fit_normalizer(loaded)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert loaded.images.shape == (80, 600, 600, 3)
    assert peak < 40e6


def test_the_second_start_decodes_no_image(directory, monkeypatch):
    both(directory, "folder", "train")
    config = config_of(directory, "folder", "no")
    first = experiment.set_up(experiment.resolve(config))
    monkeypatch.setattr("jaxconv.data.images.read", lambda *arguments: pytest.fail("decoded"))
    second = experiment.set_up(experiment.resolve(config))
    second.source.examine()
    for ours, expected in zip(second.normalizer, first.normalizer, strict=True):
        np.testing.assert_array_equal(ours, expected)
