"""A folder of images: layouts, splits, links, odd names, unreadable files, duplicates, the cache, and a whole run."""

import errno
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxconv.config import load as load_config
from jaxconv.data import images, layout
from jaxconv.data.layout import ImageFile, divide, list_files
from jaxconv.data.sources import open_source
from jaxconv.errors import ConfigError, UserError
from jaxconv.explain import explain
from jaxconv.platform import limits
from jaxconv.train import train
from tests.conftest import ROOT, launch


def write(path, value=0, size=(8, 8)):
    """Write an image of one colour, which differs for each value below 2**24."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, value // 256 % 256, value // 65536)).save(path)


def fill(root, **counts):
    """Write so many images for each class, all of another colour. A class may be a path, such as "train/cat"."""
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            write(root / name.replace("__", "/") / f"{i:03}.png", number * 1000 + i + 1)
    return root


def config_of(root, **fields):
    config = load_config(str(ROOT / "configs" / "image_folder.py"))
    config.data.dir, config.data.image_size = str(root), 8
    config.data.update(fields)
    return config


def open_folder(root, **fields):
    return open_source(config_of(root, **fields).data)


def files_of(root, **fields):
    return list_files(os.path.realpath(root), config_of(root, **fields).data)


def split_of(root, **fields):
    return {file.path: split for split, files in files_of(root, **fields).items() for file in files}


# ---- Layouts and classes


def test_a_folder_for_each_class(tmp_path):
    source = open_folder(fill(tmp_path, dog=40, cat=40, bird=40))
    assert source.class_names == ("bird", "cat", "dog")
    assert source.image_shape == (8, 8, 3)
    loaded = {split: source.load(split) for split in layout.SPLITS}
    assert sum(len(examples.labels) for examples in loaded.values()) == 120
    for split, files in files_of(tmp_path).items():
        examples = loaded[split]
        assert (examples.images.dtype, examples.labels.dtype) == (np.uint8, np.int32)
        for image, label, file in zip(*examples, files, strict=True):
            expected = np.asarray(Image.open(tmp_path / file.path))
            np.testing.assert_array_equal(image, expected)
            assert source.class_names[label] == file.class_name


def test_folders_for_splits(tmp_path):
    fill(tmp_path, train__a=3, train__b=2, val__a=1, val__b=2, test__a=1, test__b=1)
    files = files_of(tmp_path)
    assert {split: sorted(file.path for file in files[split]) for split in files} == {
        "train": ["train/a/000.png", "train/a/001.png", "train/a/002.png", "train/b/000.png", "train/b/001.png"],
        "validation": ["val/a/000.png", "val/b/000.png", "val/b/001.png"],
        "test": ["test/a/000.png", "test/b/000.png"],
    }


@pytest.mark.parametrize("there", [(), ("validation",), ("val",), ("test",)])
def test_missing_splits_come_from_train(tmp_path, there):
    fill(tmp_path, train__a=40, train__b=40, **{f"{split}__{name}": 3 for split in there for name in "ab"})
    files = files_of(tmp_path)
    for split in layout.SPLITS:
        folders = {file.path.split("/")[0] for file in files[split]}
        assert folders == ({"val"} if split == "validation" and "val" in there else {split} & {*there} or {"train"})


def test_the_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch):
    fill(tmp_path, b=10, a=10, c=10)
    before, scandir = files_of(tmp_path), os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = sorted(scandir(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert files_of(tmp_path) == before
    assert open_folder(tmp_path).class_names == ("a", "b", "c")


def test_files_in_nested_folders_are_those_of_the_class(tmp_path):
    fill(tmp_path, a=5, b=5)
    write(tmp_path / "a/1/2/3/4/5/deep.JPG", 7)
    assert split_of(tmp_path)["a/1/2/3/4/5/deep.JPG"] in layout.SPLITS


def test_what_is_no_image_is_ignored(tmp_path):
    before = split_of(fill(tmp_path, a=5, b=5))
    for name in ("a/notes.txt", "b/labels.csv", "a/Thumbs.db", "a/.DS_Store", "a/._1.png", "README", "meta.json"):
        (tmp_path / name).write_text("x")
    write(tmp_path / ".cache/1.png")
    write(tmp_path / "a/.ipynb_checkpoints/1.png")
    assert split_of(tmp_path) == before


def test_the_split_notation(tmp_path):
    source = open_folder(fill(tmp_path, a=40, b=40))
    whole = source.load("train")
    first, rest = source.load("train[:50%]"), source.load("train[50%:]")
    np.testing.assert_array_equal(np.concatenate([first.labels, rest.labels]), whole.labels)
    assert set(first.labels.tolist()) == {0, 1}  # it is not sorted by class
    assert len(source.load("train+validation+test").labels) == 80
    with pytest.raises(ConfigError, match="its splits are train, validation, test"):
        source.check_split("valid")


def test_it_is_explained_without_reading_an_image(tmp_path, monkeypatch):
    fill(tmp_path, a=5, b=5)
    monkeypatch.setattr(images, "read", None)
    explained = explain(config_of(tmp_path, image_size=(24, 32), channels=1))
    assert (explained.input_shape, explained.num_classes) == ((24, 32, 1), 2)


# ---- Splits


def named(names, seed=0):
    return [ImageFile(name, "a", 0, layout._position(seed, "a", name)) for name in names]


NAMES = st.sets(st.text("abcdef0123456789", min_size=1, max_size=6), min_size=3, max_size=120)


def assigned(names, held=("validation", "test"), share=0.15):
    divided = divide(named(sorted(names)), list(held), share)
    return {file.path: split for split, files in divided.items() for file in files}


@settings(max_examples=100, deadline=None)
@given(names=NAMES, more=NAMES, share=st.floats(0.05, 0.45))
def test_files_keep_their_split_when_others_are_added(names, more, share):
    """Except for those that stand in where a split has none: at most two before and two after."""
    before, after = assigned(names, share=share), assigned(names | more, share=share)
    assert before.keys() == names
    assert set(before.values()) == set(after.values()) == {*layout.SPLITS}
    assert sum(before[name] != after[name] for name in names) <= 4
    if all(list(before.values()).count(split) >= 2 for split in layout.SPLITS):
        assert all(before[name] == after[name] for name in names)


def test_shares_and_stratification(tmp_path):
    names = {f"{i}.png" for i in range(4000)}
    splits = list(assigned(names, share=0.2).values())
    for split in ("validation", "test"):
        assert abs(splits.count(split) / 4000 - 0.2) < 0.02
    fill(tmp_path, a=200, b=3, c=60)
    files = files_of(tmp_path)
    for split in layout.SPLITS:
        assert {file.class_name for file in files[split]} == {"a", "b", "c"}
    assert sorted(file.path for split in files.values() for file in split) == sorted(split_of(tmp_path))


def test_the_seed_and_the_share_choose_the_split(tmp_path):
    fill(tmp_path, a=60, b=60)
    assert split_of(tmp_path) != split_of(tmp_path, split_seed=1)
    smaller, larger = (split_of(tmp_path, held_out=share) for share in (0.1, 0.3))
    assert list(smaller.values()).count("train") > list(larger.values()).count("train")


def test_a_folder_may_move(tmp_path):
    fill(tmp_path / "one", a=20, b=20)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert split_of(tmp_path / "one") == split_of(tmp_path / "two")
    one, two = open_folder(tmp_path / "one"), open_folder(tmp_path / "two")
    assert one.version == two.version
    assert one.version.startswith("image_folder ")
    np.testing.assert_array_equal(one.load("train").images, two.load("train").images)
    write(tmp_path / "two/a/more.png", 5)
    assert open_folder(tmp_path / "two").version != one.version


# ---- Folders that cannot be used


def file_only(root):
    (root / "file").write_text("x")
    return root / "file"


def stray(root):
    write(fill(root, a=3, b=3) / "cover.png")


def only_images(root):
    write(root / "1.png")


def empty_class(root):
    (fill(root, a=3, b=3) / "c").mkdir()


def no_images(root):
    fill(root, a=3)
    (root / "b").mkdir()
    (root / "b/notes.txt").write_text("x")


BAD = {
    "no folder": (lambda root: root / "nope", r"config.data.dir='.*nope' does not exist: name a folder"),
    "a file": (file_only, r"config.data.dir='.*file' is a file: name a folder"),
    "nothing": (lambda root: None, "holds no folder: make one for each class"),
    "images without classes": (only_images, "holds the image '1.png' outside of a class folder: make one folder"),
    "a stray image": (stray, "holds the image 'cover.png' outside of a class folder"),
    "one class": (lambda root: fill(root, a=9), "holds one class, 'a': a net needs two or more"),
    "an empty class": (empty_class, "The class folder '.*/c' holds no image: add images, or remove it"),
    "no images": (no_images, "The class folder '.*/b' holds no image"),
    "one image": (
        lambda root: fill(root, a=9, b=1),
        "The class 'b' has 1 image, and each of train, validation, test needs one: add images, or remove the class.",
    ),
    "two images": (lambda root: fill(root, a=9, b=2), "The class 'b' has 2 images, and each of"),
    "another folder beside train": (
        lambda root: fill(root, train__a=5, train__b=5, extra__a=3),
        "has a folder 'train' and a folder 'extra': beside train, only validation",
    ),
    "val twice": (
        lambda root: fill(root, train__a=5, train__b=5, val__a=3, validation__a=3),
        "has a folder 'val' and a folder 'validation': remove one",
    ),
    "splits of another name": (
        lambda root: fill(root, Training__a=5, Training__b=5, Testing__a=3),
        "has a folder 'Testing' and none that is called 'train'",
    ),
    "test without train": (lambda root: fill(root, test__a=5, b=5), "has a folder 'test' and none that is called"),
    "a class that train lacks": (
        lambda root: fill(root, train__a=5, train__b=5, test__a=3, test__c=3),
        "The folder '.*/test' has images of the class 'c', and the folder '.*/train' has none: add some there",
    ),
    "an empty split": (
        lambda root: (fill(root, train__a=5, train__b=5) / "test").mkdir(),
        "The folder '.*/test' holds no folder",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_folder_that_cannot_be_used(kind, tmp_path):
    make, sentence = BAD[kind]
    made = make(tmp_path)
    root = made if isinstance(made, pathlib.Path) else tmp_path
    with pytest.raises(ConfigError, match=sentence) as refusal:
        open_folder(root)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize("key", ["dir", "image_size"])
def test_a_field_that_is_missing(tmp_path, key):
    with pytest.raises(ConfigError, match=f"config.data.{key} is missing: .* --config.data.{key}="):
        open_folder(fill(tmp_path, a=3, b=3), **{key: None})


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    fill(tmp_path, a=3, b=3)
    scan = os.scandir

    def refuse(path):  # root may read every folder
        if os.path.basename(path) == "a":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"/a' cannot be read \(Permission denied\): see to its permissions"):
        open_folder(tmp_path)


# ---- Links and names


def test_links_that_lead_out_are_refused(tmp_path):
    root = fill(tmp_path / "root", a=5, b=5)
    write(tmp_path / "outside/1.png")
    (root / "a/link.png").symlink_to(tmp_path / "outside/1.png")
    with pytest.raises(
        ConfigError, match=r"link.png' is a link that leads out of the folder and is not followed: copy"
    ):
        open_folder(root)
    (root / "a/link.png").unlink()
    for target, where in [
        (tmp_path / "outside", "c"),
        (tmp_path / "outside", "a/more"),
        (root, "a/loop"),
        (".", "b/b"),
    ]:
        (root / where).symlink_to(target)
        with pytest.raises(ConfigError, match=f"/{where}' is a link to a folder and is not followed"):
            open_folder(root)
        (root / where).unlink()


def test_links_within_and_to_nowhere(tmp_path):
    root = fill(tmp_path / "root", a=5, b=5)
    (root / "a/within.png").symlink_to("000.png")
    (root / "a/nowhere.png").symlink_to("gone.png")
    (root / "b/itself.png").symlink_to("itself.png")
    (root / "b/notes.txt").symlink_to("/etc/hostname")
    (tmp_path / "link").symlink_to(root)
    findings = open_folder(tmp_path / "link").examine()
    assert findings.counts["unreadable_files"] == 2
    assert "'a/nowhere.png' cannot be opened: no such file or directory" in findings.notes[0]
    assert "'b/itself.png' cannot be opened: too many levels of symbolic links" in findings.notes[0]


def test_odd_names(tmp_path):
    bad = os.fsdecode(b"caf\xe9")
    classes = ["two words", "line\nbreak", "日本語", "\x1b[31mred", bad, "ünï", "#1; rm -rf ~", "train.png"]
    for number, name in enumerate(classes):
        for i in range(4):
            write(tmp_path / name / f"{name} {i}.png", 100 * number + i)
        (tmp_path / name / f"{name} broken.png").write_bytes(b"")
    source = open_folder(tmp_path)
    assert source.num_classes == len(classes)
    assert {"two words", "line\\nbreak", "日本語", "\\x1b[31mred", "caf\\udce9", "ünï"} <= set(source.class_names)
    findings = source.examine()
    assert findings.counts["unreadable_files"] == len(classes)
    text = "".join([*findings.notes, *source.class_names])
    assert text.replace("\n  ", "").isprintable()
    text.encode()
    assert len(findings.notes[0].splitlines()) == 1 + len(classes)


# ---- Unreadable files and duplicates


def test_unreadable_files_are_left_out_and_listed(tmp_path):
    fill(tmp_path, train__a=20, train__b=20, validation__a=3, validation__b=3, test__a=3, test__b=3)
    (tmp_path / "train/a/000.png").write_bytes(b"")
    (tmp_path / "train/b/001.png").write_text("no image")
    data = (tmp_path / "test/b/002.png").read_bytes()
    (tmp_path / "test/b/002.png").write_bytes(data[:50])
    (tmp_path / "train/b/phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    source = open_folder(tmp_path)
    assert len(source.load("train").labels) == 38
    assert len(source.load("train[:50%]").labels) == 19
    assert len(source.load("test").labels) == 5
    findings = source.examine()
    assert findings.counts == {"unreadable_files": 4, "duplicates": 0}
    (note,) = findings.notes
    first, *lines = note.splitlines()
    assert first == f"Files that cannot be read are left out (4 of 53 in {str(tmp_path)!r}):"
    assert sorted(lines) == [
        "  'test/b/002.png' is truncated",
        "  'train/a/000.png' is empty",
        "  'train/b/001.png' is not a valid PNG, JPEG, WebP, BMP, GIF or TIFF image",
        "  'train/b/phone.heic' is not a valid PNG, JPEG, WebP, BMP, GIF or TIFF image",
    ]


def test_of_many_unreadable_files_some_are_listed(tmp_path):
    fill(tmp_path, a=20, b=20)
    for i in range(25):
        (tmp_path / f"a/broken{i}.jpg").write_bytes(b"x")
    (note,) = open_folder(tmp_path).examine().notes
    lines = note.splitlines()
    assert (len(lines), lines[-1]) == (22, "  and 5 more")


def test_strict_refuses_unreadable_files(tmp_path):
    fill(tmp_path, train__a=9, train__b=9, validation__a=3, validation__b=3, test__a=3, test__b=3)
    (tmp_path / "test/b/002.png").write_bytes(b"")
    source = open_folder(tmp_path, strict=True)
    assert len(source.load("train").labels) == 18
    for use in (source.examine, lambda: source.load("test")):
        with pytest.raises(
            ConfigError,
            match=r"1 of 6 files in the split 'test' of '.*' cannot be read \(first 'test/b/002.png' is empty\): mend "
            r"or remove them, or leave them out with --config.data.strict=False\.$",
        ):
            use()


def test_classes_that_lose_their_images(tmp_path):
    fill(tmp_path, train__a=9, train__b=2, validation__a=3, validation__b=1, test__a=3)
    (tmp_path / "validation/b/000.png").write_bytes(b"")
    notes = open_folder(tmp_path).examine().notes
    assert [note.split(":")[0] for note in notes[1:]] == [
        f"The split {split!r} of {str(tmp_path)!r} has no image of 'b'" for split in ("validation", "test")
    ]
    for file in (tmp_path / "train/b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ConfigError, match="No image of the class 'b' in the split 'train' of .* can be read: mend"):
        open_folder(tmp_path).load("train")
    for file in (tmp_path / "test/a").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"3 of 3 files in the split 'test' of .* mend or remove them\.$"):
        open_folder(tmp_path).load("test")


def test_duplicates_between_splits(tmp_path):
    fill(tmp_path, train__a=9, train__b=9, validation__a=3, validation__b=3, test__a=3, test__b=3)
    shutil.copy(tmp_path / "train/a/001.png", tmp_path / "test/a/copy.png")
    Image.open(tmp_path / "train/a/001.png").save(tmp_path / "validation/b/other.bmp")  # the same pixels
    shutil.copy(tmp_path / "train/b/001.png", tmp_path / "train/b/within.png")  # inflates no score
    source = open_folder(tmp_path)
    assert source.examine().counts == {"unreadable_files": 0, "duplicates": 2}
    (note,) = source.examine().notes
    assert "in another split: 2 (such as 'validation/b/other.bmp' and 'train/a/001.png')" in note


# ---- Reading


@pytest.mark.parametrize(("channels", "fit"), [(1, "pad"), (3, "crop"), (3, "stretch")])
def test_images_are_read_as_in_prediction(tmp_path, channels, fit):
    for i in range(6):
        write(tmp_path / "ab"[i % 2] / f"{i}.jpg", 999 * i, size=(40, 30))
    source = open_folder(tmp_path, image_size=(10, 12), channels=channels, fit=fit)
    for image, file in zip(source.load("train").images, files_of(tmp_path)["train"], strict=True):
        np.testing.assert_array_equal(image, images.read(tmp_path / file.path, (10, 12), channels, fit))


def test_the_second_time_no_image_is_read(tmp_path, monkeypatch):
    fill(tmp_path, a=9, b=9)
    (tmp_path / "a/broken.png").write_bytes(b"")
    first = open_folder(tmp_path)
    expected, findings = first.load("train"), first.examine()
    read, calls = images.read, []
    monkeypatch.setattr(images, "read", lambda *arguments: calls.append(1) or read(*arguments))
    second = open_folder(tmp_path)
    np.testing.assert_array_equal(second.load("train").images, expected.images)
    assert second.examine() == findings
    assert not calls
    for change in ({"image_size": 9}, {"channels": 1}, {"fit": "pad"}):
        calls.clear()
        open_folder(tmp_path, **change).load("train")
        assert calls
    calls.clear()
    for file in tmp_path.glob("a/0*.png"):
        write(file, 77)
    assert (open_folder(tmp_path).load("train").images != expected.images).any()


def test_files_that_change_in_a_run(tmp_path):
    source = open_folder(fill(tmp_path, a=9, b=9))
    source.load("train")
    for file in tmp_path.glob("a/*.png"):
        write(file, 7777)
    with pytest.raises(UserError, match="Files in the split 'train' of .* have changed since this run began"):
        source.load("train")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(5, "Input/output error"), "cannot be opened: input/output error"), (MemoryError(), "does not fit into")],
)
def test_a_failure_that_may_pass_leaves_no_file_out(tmp_path, monkeypatch, error, reason):
    fill(tmp_path, a=9, b=9)
    source = open_folder(tmp_path)

    def broken(file):
        raise error

    monkeypatch.setattr(images, "_open", broken)
    with pytest.raises(UserError, match=rf"png' {reason}.*: see to the disk and the memory"):
        source.load("train")


def test_more_than_the_free_memory(tmp_path, monkeypatch):
    source = open_folder(fill(tmp_path, a=9, b=9), in_memory="yes")
    monkeypatch.setattr(limits, "free_memory", lambda: 1000)
    with pytest.raises(
        ConfigError,
        match=r"The split 'train' of .* of memory .*: set config.data.in_memory='no', or lower config.data.image_size",
    ):
        source.load("train")


# ---- Runs


def small(config):
    config.data.image_size, config.num_epochs, config.batch_size = 8, 1, 16
    config.model.filters, config.model.dense = ((4,),), (8,)
    return config


def test_a_run_is_not_resumed_with_other_files(tmp_path):
    fill(tmp_path / "data", a=9, b=9)
    config = small(config_of(tmp_path / "data"))
    train(config, tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    (tmp_path / "data").rename(tmp_path / "moved")
    config.data.dir, config.data.strict = str(tmp_path / "moved"), True
    train(config, tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    fill(tmp_path / "moved", a=30)
    with pytest.raises(
        ConfigError, match=r"The data has changed since the run in .* train_examples was \d+ and is \d+"
    ):
        train(config, tmp_path / "run")


def test_strict_refuses_before_the_workdir_is_touched(tmp_path):
    fill(tmp_path / "data", train__a=9, train__b=9, test__a=3, test__b=3)
    (tmp_path / "data/test/a/000.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="'test/a/000.png' is empty"):
        train(small(config_of(tmp_path / "data", strict=True)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_whole_run(tmp_path):
    fill(tmp_path / "data", train__red=14, train__green=14, train__blue=14, test__red=6, test__green=6, test__blue=6)
    (tmp_path / "data/train/red/broken.png").write_bytes(b"\x89PNG")
    shutil.copy(tmp_path / "data/train/red/000.png", tmp_path / "data/test/red/copy.png")
    workdir = tmp_path / "run"
    arguments = ["--config=configs/image_folder.py", f"--workdir={workdir}", "--config.num_epochs=1"]
    small = ["--config.data.image_size=16", "--config.model.filters=((4,),)", "--config.model.dense=(8,)"]
    small += ["--config.report=False"]
    process = launch(*arguments, *small, f"--config.data.dir={tmp_path / 'data'}")
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["data"] == {"unreadable_files": 1, "duplicates": 1}
    assert summary["test_examples"] == 19
    assert json.loads((workdir / "signature.json").read_text())["class_names"] == ["blue", "green", "red"]
    assert "\n  'train/red/broken.png' is " in process.stderr
    assert "in another split: 1 (such as 'test/red/copy.png' and 'train/red/000.png')" in process.stderr


def test_a_bad_folder_from_the_command_line(tmp_path):
    process = launch("--config=configs/image_folder.py", f"--workdir={tmp_path / 'run'}", status=2)
    assert process.stderr.splitlines()[-1] == (
        "launch.py: config.data.dir is missing: name the folder of images, as in --config.data.dir=DIR."
    )
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "run").exists()
