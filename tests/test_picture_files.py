"""Folders and manifests: files of several pictures, archives, groups, splits and labels."""

import io
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from pdae_jax.data import Data, DataError, ValueRange, batches, open_source
from pdae_jax.data.picture_files import find_pictures


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (6, 5), value).save(path)


def patients(folder, count=10, each=3):
    for p in range(count):
        for k in range(each):
            save(folder / f"p{p:02d}" / f"{k}.png", 10 * p + k)


def names(source):
    return [source.path(i) for i in range(len(source))]


def test_patients_folders_are_split_as_a_whole(tmp_path):
    patients(tmp_path)
    data = Data(f"folder:{tmp_path}", group="parent", test_fraction=0.3)
    train, test, everything = (data.open(split) for split in ("train", "test", "all"))
    assert len(train) == 21 and len(test) == 9
    assert not set(train.group) & set(test.group) and len(set(everything.group)) == 10
    assert set(names(test)) == {
        name for name, part in zip(names(everything), everything.split_of) if part == "test"
    }
    line = "21 pictures of 7 groups to train, 9 pictures of 3 groups held out, no group on both"
    assert any(line in words for words in train.words)
    assert names(data.open("test")) == names(test)  # the same at every start


def test_a_column_of_the_table_groups_and_is_no_label(tmp_path):
    patients(tmp_path / "in", 6, 2)
    lines = [
        f"p{p:02d}/{k}.png;family {p // 2};{p + 0.5}".replace(".5", ",5")
        for p in range(6)
        for k in (0, 1)
    ]
    (tmp_path / "t.csv").write_text("file;family;age\n" + "\n".join(lines) + "\n")
    data = Data(
        f"folder:{tmp_path / 'in'}",
        attributes=str(tmp_path / "t.csv"),
        group="family",
        test_fraction=0.3,
    )
    train, test = data.open("train"), data.open("test")
    assert train.attributes == ("age",) and set(test.group) < {f"family {k}" for k in range(3)}
    ages = {name: age for name, (age,) in zip(names(train), train.labels.tolist())}
    assert all(age == int(name[1:3]) + 0.5 for name, age in ages.items())
    assert "12 of 12 pictures found by path" in " ".join(train.words)
    with pytest.raises(
        DataError,
        match="no column 'familie' for groups: it has file, family, age",
    ):
        Data(data.name, attributes=data.attributes, group="familie").open("train")
    with pytest.raises(DataError, match="group = 'family' is a column of a table"):
        Data(data.name, group="family").open("train")


def test_files_of_several_pictures_are_groups(tmp_path):
    for k in range(10):
        tifffile.imwrite(
            tmp_path / f"{k}.tif",
            np.full((4, 6, 5), k, np.uint8),
            photometric="minisblack",
            metadata={"axes": "ZYX"},
        )
    source = Data(f"folder:{tmp_path}", axes="ZYX").open("all")
    assert len(source) == 40 and source.path(5) == "1.tif[1]" and source.image(5).max() == 1
    test = Data(f"folder:{tmp_path}", axes="ZYX", test_fraction=0.2).open("test")
    assert len(test) == 8 and len(set(test.group)) == 2
    assert any("each file is a group" in words for words in test.words)


def test_a_bad_page_is_one_named_loss(tmp_path):
    path = tmp_path / "stack.tif"
    pages = np.stack([np.full((64, 64), k, np.uint8) for k in range(6)])
    tifffile.imwrite(path, pages, photometric="minisblack", compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tif:
        offset, length = tif.pages[3].dataoffsets[0], tif.pages[3].databytecounts[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * length)
    source = Data(f"folder:{tmp_path}", axes="ZYX").open("all")
    with batches(source, size=64, channels=1, batch_size=6) as one:
        batch = next(one)
        assert batch["mask"].tolist() == [True, True, True, False, True, True]
        assert list(one.broken) == [f"{path}[3]"]
    assert [image.max() for image in batch["image"]] == [0, 1, 2, 0, 4, 5]


def test_a_file_that_cannot_be_opened_is_one_named_loss(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((6, 5), np.float32))
    (tmp_path / "b.npy").write_bytes(b"no array")
    source = Data(f"folder:{tmp_path}").open("all", ValueRange((0.0,), (1.0,)))
    with batches(source, size=5, channels=1, batch_size=2) as one:
        assert next(one)["mask"].tolist() == [True, False]
        assert list(one.broken) == [str(tmp_path / "b.npy")]


def test_archives_are_folders(tmp_path):
    for p in range(3):
        with zipfile.ZipFile(tmp_path / f"case{p}.zip", "w") as archive:
            for k in range(2):
                file = io.BytesIO()
                Image.new("L", (6, 5), 10 * p + k).save(file, "PNG")
                archive.writestr(f"tiles/{k}.png", file.getvalue())
    save(tmp_path / "alone.png", 99)
    source = Data(f"folder:{tmp_path}", group="parent").open("all")
    assert names(source)[1:3] == ["case0.zip/tiles/0.png", "case0.zip/tiles/1.png"]
    assert [int(source.image(i).max()) for i in range(7)] == [99, 0, 1, 10, 11, 20, 21]
    assert source.group[1] == "case0.zip/tiles" and source.read_from()[1] == str(
        tmp_path / "case0.zip"
    )
    assert len(Data(f"folder:{tmp_path / 'case1.zip'}").open("all")) == 2


def test_an_array_in_a_file_is_named_after_a_colon(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/x"] = np.arange(3 * 6 * 5, dtype=np.uint8).reshape(3, 6, 5)
        file["other"] = np.zeros((2, 6, 5), np.uint8)
    source = Data(f"folder:{tmp_path}/a.h5:train/x", axes="NYX").open("all")
    assert len(source) == 3 and source.image(2).max() == 89
    assert source.read_from() == [str(tmp_path / "a.h5")]
    with pytest.raises(DataError, match="train/x"):
        source = Data(f"folder:{tmp_path}/a.h5", axes="NYX").open("all")
        source.read(0)


def test_a_manifest_says_everything(tmp_path):
    patients(tmp_path / "in", 4, 2)
    lines = ["path,split,group,stain,diseased"]
    for p, (split, stain) in enumerate(
        [("train", "HE"), ("train", "PAS"), ("val", "HE"), ("test", "PAS")]
    ):
        lines += [
            f"in/p{p:02d}/{k}.png,{split},P{p},{stain},{'yes' if k else 'no'}" for k in (0, 1)
        ]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    data = Data(f"table:{tmp_path / 'm.csv'}")
    train, test = data.open("train"), data.open("test")
    assert names(train) == [f"in/p{p:02d}/{k}.png" for p in (0, 1) for k in (0, 1)]
    assert names(test) == ["in/p03/0.png", "in/p03/1.png"] and set(test.group) == {"P3"}
    assert train.attributes == ("stain=HE", "stain=PAS", "diseased")
    assert train.labels.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert set(data.open("all").split_of) == {"train", "valid", "test"}
    assert train.image(1).max() == 1


def test_manifests_that_leak_or_lack_are_refused(tmp_path):
    patients(tmp_path, 2, 2)
    table = tmp_path / "m.csv"
    table.write_text("path,split,group\np00/0.png,train,A\np00/1.png,test,A\n")
    with pytest.raises(DataError, match="group 'A' lies on both sides of the split"):
        Data(f"table:{table}").open("train")
    table.write_text("path,split\np00/0.png,train\np00/1.png,train\n")
    with pytest.raises(DataError, match="no picture of split 'test'"):
        Data(f"table:{table}").open("test")
    table.write_text("file,split\np00/0.png,train\n,train\n")
    with pytest.raises(DataError, match="line 3: no path under 'file'"):
        Data(f"table:{table}").open("train")
    table.write_text("path,group\np00/0.png,A\np00/1.png,\np01/0.png,B\n")
    with pytest.raises(DataError, match="p00/1.png has no group in 'group'"):
        Data(f"table:{table}").open("train")
    table.write_text("path\np00/0.png\np00/1.png\n")  # a list alone is enough
    assert len(Data(f"table:{table}").open("all")) == 2


def test_a_given_folder_of_each_split_is_checked_by_group(tmp_path):
    for part in ("train", "test"):
        save(tmp_path / part / f"{part} of A.png")
    (tmp_path / "t.csv").write_text("file,who,x\ntrain of A.png,A,1\ntest of A.png,A,2\n")
    how = {"attributes": str(tmp_path / "t.csv"), "group": "who"}
    with pytest.raises(DataError, match="lies on both sides"):
        Data(f"folder:{tmp_path}", **how).open("all")


@pytest.mark.parametrize(
    "setting, value", [("group", "parent"), ("axes", "CYX"), ("channels", (0,)), ("slices", "0::")]
)
def test_what_other_data_do_not_read_is_refused(setting, value):
    with pytest.raises(DataError, match=f"{setting} = .* digits does not read it"):
        Data("digits", **{setting: value}).open("train")


def test_fifty_thousand_files_are_listed_in_seconds(tmp_path):
    for k in range(50):
        (tmp_path / str(k)).mkdir()
        for i in range(1000):
            Path(tmp_path, str(k), f"{i}.png").touch()
    began = time.perf_counter()
    source = open_source(f"folder:{tmp_path}", "all")
    seconds = time.perf_counter() - began
    assert len(source) == 50_000 and source.path(1001) == "1/1.png"
    assert seconds < 30, seconds  # two or three on an idle machine
    assert len(find_pictures(tmp_path)) == 50_000


def test_a_patient_below_train_and_below_test_is_found(tmp_path):
    for part, people in (("train", "ab"), ("test", "bc")):
        for person in people:
            (tmp_path / part / person).mkdir(parents=True)
            save(tmp_path / part / person / "0.png")
    for split in ("train", "test", "all"):
        with pytest.raises(DataError, match="group 'b' lies on both sides"):
            open_source(f"folder:{tmp_path}", split, group="parent")
    table = tmp_path / "people.csv"
    lines = [f"{p},{p.split('/')[1]}" for p in ("train/a/0.png", "train/b/0.png", "test/b/0.png")]
    table.write_text("\n".join(["path,who", *lines, "test/c/0.png,c"]))
    with pytest.raises(DataError, match="group 'b' lies on both sides"):
        open_source(f"folder:{tmp_path}", "train", attributes=table, group="who")
    (tmp_path / "test" / "b" / "0.png").unlink()
    test = open_source(f"folder:{tmp_path}", "test", group="parent")
    assert names(test) == ["test/c/0.png"] and "no group on both sides" in test.words[0]


def test_a_folders_table_says_the_split(tmp_path):
    patients(tmp_path, count=4, each=2)
    every = names(open_source(f"folder:{tmp_path}", "all"))
    parts = ["train", "train", "train", "test", "val", "train", "train", "test"]
    table = tmp_path / "t.csv"
    lines = [f"{path},{part},1" for path, part in zip(every, parts)]
    table.write_text("\n".join(["path,split,y", *lines]))
    for part in ("train", "test"):
        source = open_source(f"folder:{tmp_path}", part, attributes=table)
        assert names(source) == [path for path, p in zip(every, parts) if p == part]
        assert (
            "split by column 'split': 5 train, 2 test; 1 valid are in neither" in source.words[-1]
        )


def test_a_manifest_names_a_picture_once(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "m.csv").write_text("path,split\na.png,train\na.png,test\n")
    with pytest.raises(DataError, match="names 'a.png' twice under 'path'"):
        open_source(f"table:{tmp_path / 'm.csv'}", "train")


def test_slices_of_one_stack_stay_together(tmp_path):
    np.save(tmp_path / "0.npy", np.zeros((10, 8, 8), np.uint8))
    for k in range(1, 12):
        np.save(tmp_path / f"{k}.npy", np.full((1, 8, 8), k, np.uint8))
    data = Data(f"folder:{tmp_path}", axes="ZYX", test_fraction=0.3)
    train, test = data.open("train"), data.open("test")
    assert not set(train.group) & set(test.group) and len(train) + len(test) == 21
    assert "each file is a group" in train.words[0]


def test_one_array_of_each_of_several_files(tmp_path):
    for k in range(3):
        with h5py.File(tmp_path / f"P{k}.h5", "w") as file:
            file["images"] = np.full((2, 8, 8), k, np.uint8)
            file["masks"] = np.zeros((2, 8, 8), np.uint8)
    source = Data(f"folder:{tmp_path}/*.h5:images", axes="NYX").open("all")
    assert [int(source.image(i).max()) for i in range(len(source))] == [0, 0, 1, 1, 2, 2]


def test_pictures_within_a_file_have_labels_of_their_own(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "t.csv").write_text("path,y\nx.npy[0],0.5\nx.npy[1],1.5\nx.npy[2],2.5\n")
    data = Data(f"folder:{tmp_path}", axes="NYX", attributes=str(tmp_path / "t.csv"))
    np.testing.assert_array_equal(data.open("all").labels[:, 0], [0.5, 1.5, 2.5])
