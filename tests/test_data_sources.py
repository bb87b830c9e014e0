"""Folders, LMDBs and TFDS: real files of every kind, and the one line each mistake gets."""

import io
import os
import pickle
from pathlib import Path

import lmdb
import numpy as np
import pytest
from helpers import run_program
from PIL import Image

from pdae_jax.data import CELEBA_CROP, TFDS, DataError, open_source, prepare
from pdae_jax.data.lmdb_source import CELEBA_SPLITS, LMDB
from pdae_jax.formats.pillow_file import decode
from pdae_jax.formats.stack import Picture


def save(path, value=100, size=(10, 8), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "1") else (value,) * 3
    Image.new(mode, size, colour).save(path, **options)
    return path


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def gradient(h, w):
    rows, columns = np.mgrid[:h, :w]
    return np.stack([rows * 255 // h, columns * 255 // w, (rows + columns) % 256], -1).astype(
        np.uint8
    )


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def prepared(image, *how):
    return prepare(Picture(image), *how)[0]


# Decoding and preparing


def test_transparency_is_flattened_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    expected = np.zeros((4, 4, 3), np.uint8)
    expected[2:] = 255
    assert np.array_equal(decode(tmp_path / "a.png"), expected)
    Image.fromarray(rgba).convert("LA").save(tmp_path / "la.png")
    assert np.array_equal(decode(tmp_path / "la.png"), expected[..., :1])
    Image.fromarray(rgba).quantize(4).save(tmp_path / "p.png")
    assert np.array_equal(decode(tmp_path / "p.png"), expected)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    save(tmp_path / "a.jpg", size=(10, 4), exif=exif)
    assert decode(tmp_path / "a.jpg").shape == (10, 4, 3)


def test_prepare_resizes_the_shorter_side_and_cuts_the_centre():
    image = gradient(40, 80)
    expected = np.asarray(Image.fromarray(image).resize((40, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(prepared(image, 20, 3), expected[:, 10:30])
    assert prepared(image, (24, 10), 3).shape == (24, 10, 3)
    assert prepared(image, (64, 96), 3).shape == (64, 96, 3)  # enlarging covers too
    assert np.array_equal(prepared(image, (40, 80), 3), image)


def test_prepare_treats_many_channels_as_it_treats_three():
    image = gradient(33, 47)
    five = np.concatenate([image, image[..., :2]], -1)
    assert np.array_equal(prepared(five, 16, 5)[..., :3], prepared(image, 16, 3))


def test_channels_are_converted_or_refused():
    grey, rgb = gradient(8, 8)[..., :1], gradient(8, 8)
    assert np.array_equal(prepared(grey, 8, 3), np.repeat(grey, 3, -1))
    luminance = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(prepared(rgb, 8, 1)[..., 0] - luminance).max() <= 1
    with pytest.raises(DataError, match=r"2 channel.*3 are asked"):
        prepared(rgb[..., :2], 8, 3)


def test_crop_comes_before_the_resize_and_must_fit():
    image = gradient(218, 178)
    assert np.array_equal(prepared(image, 128, 3, CELEBA_CROP), image[57:185, 25:153])
    with pytest.raises(DataError, match="does not lie inside"):
        prepared(gradient(100, 100), 64, 3, CELEBA_CROP)


# Folders


def test_folder_is_recursive_and_in_natural_order(tmp_path):
    for name in ("b/img10.png", "b/img2.jpg", "a/x.bmp", "c.gif", ".hidden.png", "notes.txt"):
        if name.endswith(".txt"):
            (tmp_path / name).write_text("not a picture")
        else:
            save(tmp_path / name)
    source = open_source(str(tmp_path), "all")
    names = [Path(source.where(i)).relative_to(tmp_path).as_posix() for i in range(len(source))]
    assert names == ["a/x.bmp", "b/img2.jpg", "b/img10.png", "c.gif"]
    assert source.image(0).shape == (8, 10, 3) and source.labels.shape == (4, 0)


def test_folder_follows_links_without_going_round(tmp_path):
    save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert len(open_source(str(tmp_path / "link"), "all")) == 1


def test_folder_holds_out_a_seeded_share(tmp_path):
    for i in range(30):
        save(tmp_path / f"{i}.png", i)
    parts = {s: open_source(str(tmp_path), s, seed=3).files for s in ("train", "test", "all")}
    assert len(parts["test"]) == 3 and not set(parts["train"]) & set(parts["test"])
    assert set(parts["train"]) | set(parts["test"]) == set(parts["all"])
    assert parts["test"] == open_source(str(tmp_path), "test", seed=3).files
    assert parts["test"] != open_source(str(tmp_path), "test", seed=4).files


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_folder_uses_its_own_split(tmp_path, held_out):
    save(tmp_path / "train" / "a.png")
    save(tmp_path / held_out / "b.png")
    sizes = [len(open_source(str(tmp_path), split)) for split in ("train", "test", "all")]
    assert sizes == [1, 1, 2]
    assert open_source(str(tmp_path), "test").where(0).endswith("b.png")


def test_folder_with_train_alone_holds_out_of_it(tmp_path):
    for i in range(20):
        save(tmp_path / "train" / f"{i}.png")
    assert [len(open_source(str(tmp_path), s)) for s in ("train", "test")] == [18, 2]


def test_csv_attributes_by_name_or_path_with_gaps(tmp_path):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    save(tmp_path / "in" / "c.png")
    table = tmp_path / "t.csv"
    table.write_text("file,Male,Age\nin/a.png,-1,30.5\nb.png,1,\n")
    source = open_source(str(tmp_path / "."), "all", attributes=table)
    assert source.attributes == ("Male", "Age")
    expected = [[0, 30.5], [1, np.nan], [np.nan, np.nan]]
    assert np.array_equal(source.labels, np.float32(expected), equal_nan=True)
    assert source.labels.dtype == np.float32


def test_celeba_text_attributes(tmp_path):
    save(tmp_path / "d" / "0.jpg")
    save(tmp_path / "d" / "1.jpg")
    table = tmp_path / "CelebAMask-HQ-attribute-anno.txt"
    table.write_text("2\nBald Male \n0.jpg  -1  1\n1.jpg   1 -1\n")
    source = open_source(str(tmp_path / "d"), "all", attributes=table)
    assert source.attributes == ("Bald", "Male") and source.labels.tolist() == [[0, 1], [1, 0]]


def test_a_table_of_other_pictures_is_refused(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("file,Male\nz.png,1\n")
    with pytest.raises(DataError, match=r"'z.png'.*'a.png'"):
        open_source(str(tmp_path), "all", attributes=tmp_path / "t.csv")
    with pytest.raises(DataError, match="cannot read the attributes"):
        open_source(str(tmp_path), "all", attributes=tmp_path / "none.csv")


def test_folder_mistakes_get_one_line(tmp_path):
    with pytest.raises(DataError, match="no such file or folder") as error:
        open_source(f"folder:{tmp_path}/none")
    assert str(tmp_path) in one_line(error)
    with pytest.raises(DataError, match="it is empty"):
        open_source(str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"only \.txt"):
        open_source(str(tmp_path))
    with pytest.raises(DataError, match="no folder, and no picture"):
        open_source(f"folder:{tmp_path}/a.txt")
    save(tmp_path / "a.png")
    with pytest.raises(DataError, match="no split 'val'"):
        open_source(str(tmp_path), "val")
    with pytest.raises(DataError, match="test split of 1"):
        open_source(str(tmp_path), "test")


@pytest.mark.parametrize(
    "name, near",
    [
        ("digit", "digits"),
        ("emojis", "emoji"),
        ("lmbd:x", "lmdb:"),
        ("/no/such/folder", "folder:PATH"),
    ],
)
def test_unknown_names_get_the_nearest_valid_ones(name, near):
    with pytest.raises(ValueError, match=near) as error:
        open_source(name)
    assert name in one_line(error)


# LMDB


def write_lmdb(path, items, length):
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as txn:
        for key, value in items.items():
            txn.put(key.encode(), value)
        if length is not None:
            txn.put(b"length", str(length).encode())
    return path


@pytest.mark.parametrize("form", LMDB.formats)
def test_lmdb_knows_the_key_formats(tmp_path, form):
    pictures = [gradient(218, 178), gradient(218, 178)[::-1]]
    write_lmdb(tmp_path, {form.format(i): png(p) for i, p in enumerate(pictures)}, 2)
    source = open_source(f"lmdb:{tmp_path}", "all")
    assert len(source) == 2 and form.format(1) in source.where(1)
    assert all(np.array_equal(source.image(i), pictures[i]) for i in range(2))
    assert source.crop == (CELEBA_CROP if form.startswith("None") else None)
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.image(1), pictures[1])


def test_lmdb_has_celebas_splits(tmp_path):
    """The whole CelebA by its length; only the first picture of each part is there."""
    firsts = [CELEBA_SPLITS[s][0] for s in ("train", "valid", "test")]
    write_lmdb(
        tmp_path, {f"None-{i:07d}": png(gradient(8, k + 1)) for k, i in enumerate(firsts)}, 202599
    )
    sources = [open_source(f"lmdb:{tmp_path}", s) for s in ("train", "valid", "test", "all")]
    assert [len(s) for s in sources] == [162770, 19867, 19962, 202599]  # the parts add up
    assert [s.image(0).shape[1] for s in sources] == [1, 2, 3, 1]
    with pytest.raises(DataError, match="None-0000001 is missing"):
        sources[0].image(1)


def test_lmdb_attributes_and_held_out_share(tmp_path):
    write_lmdb(tmp_path / "db", {f"256-{i:05d}": png(gradient(4, 4)) for i in range(10)}, 10)
    lines = [f"{i}.jpg {1 if i % 2 else -1}" for i in range(10)]
    (tmp_path / "t.txt").write_text("\n".join(["10", "Odd", *lines]))
    train, test = (
        open_source(f"lmdb:{tmp_path}/db", s, attributes=tmp_path / "t.txt")
        for s in ("train", "test")
    )
    assert (len(train), len(test)) == (9, 1)
    assert train.labels[:, 0].tolist() == (train.indices % 2).tolist()
    assert len(open_source(f"lmdb:{tmp_path}/db", "train", test_fraction=0)) == 10


def test_celeba_lmdb_attributes_count_from_one(tmp_path):
    write_lmdb(tmp_path / "db", {"None-0000000": png(gradient(4, 4))}, 2)
    (tmp_path / "t.txt").write_text("2\nMale\n000001.jpg 1\n000002.jpg -1\n")
    source = open_source(f"lmdb:{tmp_path}/db", "all", attributes=tmp_path / "t.txt")
    assert source.labels.tolist() == [[1], [0]]


def test_lmdb_mistakes_get_one_line(tmp_path):
    with pytest.raises(DataError, match="no such LMDB"):
        open_source(f"lmdb:{tmp_path}/none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot open") as error:
        open_source(f"lmdb:{tmp_path}/folder")
    one_line(error)
    write_lmdb(tmp_path / "other", {"x": b"1"}, 1)
    with pytest.raises(DataError, match="another layout"):
        open_source(f"lmdb:{tmp_path}/other")


# TFDS


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A real data set of TFDS, prepared as array_record files without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("tfds")

    class PdaeTiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = folder

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(None, None, 3)),
                        "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                        "text": tfds.features.Text(),
                        "attributes": {"Male": np.bool_, "Age": np.float32},
                    }
                )
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(7), "validation": self._generate_examples(3)}

        def _generate_examples(self, count):
            for i in range(count):
                yield (
                    i,
                    {
                        "image": io.BytesIO(png(np.full((8, 9, 3), i, np.uint8))),
                        "text": "x",
                        "label": i % 2,
                        "attributes": {"Male": i % 2 == 1, "Age": i * 1.5},
                    },
                )

    PdaeTiny(data_dir=folder / "data", file_format="array_record").download_and_prepare()
    return folder / "data"


def test_tfds_pictures_and_labels(tfds_dir):
    source = open_source("tfds:pdae_tiny", "train", data_dir=tfds_dir)
    assert len(source) == 7 and set(source.attributes) == {"label", "Male", "Age"}
    pixels = [int(source.image(i)[0, 0, 0]) for i in range(7)]
    assert sorted(pixels) == list(range(7))  # TFDS shuffles when it writes
    labels = {name: source.labels[:, a] for a, name in enumerate(source.attributes)}
    assert labels["label"].tolist() == labels["Male"].tolist() == [p % 2 for p in pixels]
    assert labels["Age"].tolist() == [p * 1.5 for p in pixels]
    picture, label = pickle.loads(pickle.dumps(source)).example(3)
    assert picture.values.shape == (8, 9, 3) and np.array_equal(label, source.labels[3])


def test_tfds_splits(tfds_dir):
    sizes = [
        len(TFDS("pdae_tiny", s, data_dir=tfds_dir)) for s in ("train", "test", "valid", "all")
    ]
    assert sizes == [7, 3, 3, 10]


def test_tfds_without_a_train_split_shares_nothing_between_train_and_test(tfds_dir, monkeypatch):
    """Its other splits are taken together and divided."""
    builder = TFDS._builder

    def without_train(self):
        found = builder(self)
        splits = {name: split for name, split in found.info.splits.items() if name != "train"}
        monkeypatch.setattr(type(found.info), "splits", property(lambda self: splits))
        return found

    monkeypatch.setattr(TFDS, "_builder", without_train)
    train, test = (
        TFDS("pdae_tiny", s, data_dir=tfds_dir, test_fraction=0.34) for s in ("train", "test")
    )
    assert sorted([*train.indices, *test.indices]) == [0, 1, 2]
    with pytest.raises(DataError, match="no validation split beside a train split"):
        TFDS("pdae_tiny", "valid", data_dir=tfds_dir)


def test_tfds_mistakes_get_one_line(tfds_dir):
    with pytest.raises(DataError, match="tfds build celeb_a --file_format=array_record") as error:
        open_source("tfds:celeb_a", data_dir=tfds_dir)
    one_line(error)
    with pytest.raises(DataError, match="does not know 'celeb_aaa'") as error:
        open_source("tfds:celeb_aaa", data_dir=tfds_dir)
    one_line(error)


# Layering


def test_importing_and_reading_needs_no_jax_and_no_tensorflow(tfds_dir):
    run_program("read_data", tfds_dir)


def test_an_unreadable_folder_is_one_clear_line(tmp_path, monkeypatch):
    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(DataError, match=f"cannot read folder {tmp_path}: Permission denied"):
        open_source(f"folder:{tmp_path}")


def test_videos_and_tables_beside_the_pictures_are_no_broken_pictures(tmp_path):
    for name in ("clip.mpg", "table.grib", "notes.txt", "figure.eps"):
        (tmp_path / name).write_bytes(b"no picture")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    assert len(open_source(f"folder:{tmp_path}", "all")) == 1
