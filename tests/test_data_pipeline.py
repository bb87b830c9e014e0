"""The training stream: the same for every start, process count and kind of worker."""

import itertools
import logging
import sys

import numpy as np
import pytest
from PIL import Image

from pdae_jax.data import DataError, Source, batches, open_source, train_batches
from pdae_jax.data.augmentation import Augmentation
from pdae_jax.formats.stack import Layout, Picture


def take(iterator, count):
    result = list(itertools.islice(iterator, count))
    iterator.close()
    return result


def same(a, b):
    return all(np.array_equal(x[key], y[key]) for x, y in zip(a, b, strict=True) for key in x)


@pytest.fixture(scope="module")
def digits():
    return open_source("digits", "test")


ARGUMENTS = {"size": 8, "channels": 1, "batch_size": 32, "seed": 5}


@pytest.fixture(scope="module")
def reference(digits):
    return take(train_batches(digits, **ARGUMENTS), 30)


def test_batches_have_the_promised_shapes(reference):
    batch = reference[0]
    assert (batch["image"].shape, batch["image"].dtype) == ((32, 8, 8, 1), np.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((32, 10), np.float32)
    assert (batch["index"].shape, batch["index"].dtype) == ((32,), np.int64)


def test_rows_are_the_pictures_they_say_mirrored_or_not(digits, reference):
    mirrored = 0
    rows = [(b["image"][r], b["label"][r], b["index"][r]) for b in reference for r in range(32)]
    for image, label, index in rows:
        plain = digits.image(index)
        assert np.array_equal(image, plain) or np.array_equal(image, plain[:, ::-1])
        assert np.array_equal(label, digits.labels[index])
        mirrored += not np.array_equal(image, plain)
    assert 0.4 < mirrored / len(rows) < 0.6


def test_each_epoch_is_every_picture_once_in_a_new_order(digits, reference):
    order = np.concatenate([batch["index"] for batch in reference])
    size = len(digits)
    epochs = order[:size], order[size : 2 * size]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert not np.array_equal(*epochs) and not np.array_equal(epochs[0], np.arange(size))


def test_resuming_is_starting_at_the_step(digits, reference):
    for step in (1, 13, 29):
        resumed = take(train_batches(digits, **ARGUMENTS, start_step=step), 30 - step)
        assert same(resumed, reference[step:])


def test_the_seed_decides(digits, reference):
    assert same(take(train_batches(digits, **ARGUMENTS), 5), reference[:5])
    other = take(train_batches(digits, **(ARGUMENTS | {"seed": 6})), 1)
    assert not np.array_equal(other[0]["index"], reference[0]["index"])
    flips = take(train_batches(digits, **ARGUMENTS, augmentation=Augmentation(flip=False)), 1)[0]
    assert np.array_equal(flips["image"], digits.images[flips["index"]])
    assert np.array_equal(flips["index"], reference[0]["index"])


@pytest.mark.parametrize("count", [2, 4, 8])
def test_any_number_of_processes_sees_the_same_global_batches(digits, reference, count):
    shards = [
        take(train_batches(digits, **ARGUMENTS, process_index=p, process_count=count), 15)
        for p in range(count)
    ]
    whole = [
        {key: np.concatenate([shard[k][key] for shard in shards]) for key in reference[0]}
        for k in range(15)
    ]
    assert same(whole, reference[:15])


def test_worker_processes_give_the_same_batches(digits, reference):
    assert same(take(train_batches(digits, **ARGUMENTS, workers=2), 5), reference[:5])


def test_a_batch_may_be_larger_than_the_data():
    class Three(Source):
        def __len__(self):
            return 3

        def image(self, i):
            return np.full((4, 4, 1), i, np.uint8)

    batch = take(train_batches(Three(), size=4, channels=1, batch_size=9, seed=0), 1)[0]
    assert sorted(batch["index"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert batch["label"].shape == (9, 0)
    # a class of a function's own reaches a worker by value
    assert take(train_batches(Three(), size=4, channels=1, batch_size=2, seed=0, workers=1), 1)


class Spy(Source):
    """Its labels say which modules are loaded where its pictures are."""

    attributes = ("jax", "grain", "flax")

    def __len__(self):
        return 4

    def example(self, i):
        print("libraries that print must not disturb")
        image = Picture(np.zeros((4, 4, 1), np.uint8))
        return image, np.float32([m in sys.modules for m in self.attributes])


def test_workers_do_not_import_jax():
    pytest.importorskip("jax")
    here, there = (
        take(train_batches(Spy(), size=4, channels=1, batch_size=4, seed=0, workers=w), 1)
        for w in (0, 2)
    )
    assert here[0]["label"][:, :2].all()  # Grain and with it JAX, in the main process
    assert not there[0]["label"].any()


class Dies(Source):
    def __len__(self):
        return 100

    def image(self, i):
        if i == 50:
            sys.exit(3)
        return np.zeros((4, 4, 1), np.uint8)


def test_a_dead_worker_is_an_error_not_a_hang():
    with pytest.raises(DataError, match="worker process"):
        take(train_batches(Dies(), size=4, channels=1, batch_size=100, seed=0, workers=2), 1)


# Broken pictures


def folder(path, good, broken):
    for i in range(good + broken):
        file = path / f"{i:03d}.png"
        if i < broken:
            file.write_bytes(b"\x89PNG\r\n\x1a\n broken")
        else:
            Image.fromarray(np.full((6, 6), i, np.uint8)).save(file)
    return open_source(str(path), "all")


SMALL = {"size": 6, "channels": 1, "batch_size": 10}


def test_broken_pictures_are_replaced_and_counted_once(tmp_path):
    source = folder(tmp_path, 48, 2)
    iterator = train_batches(source, **SMALL, seed=0)
    first = list(itertools.islice(iterator, 15))  # three epochs
    iterator.close()
    paths = {str(tmp_path / "000.png"), str(tmp_path / "001.png")}
    assert set(iterator.broken) == paths
    indices = np.concatenate([batch["index"] for batch in first])
    assert np.bincount(indices, minlength=50)[:4].tolist() == [0, 0, 9, 3]  # 2 stands in for 0, 1
    assert same(first[7:], take(train_batches(source, **SMALL, seed=0, start_step=7), 8))


def test_too_many_broken_pictures_stop_the_run(tmp_path):
    source = folder(tmp_path, 30, 10)
    with pytest.raises(DataError, match="too many broken pictures") as error:
        take(train_batches(source, **SMALL, seed=0), 20)
    assert str(tmp_path / "00") in str(error.value) and "\n" not in str(error.value)
    assert len(take(train_batches(source, **SMALL, seed=0, max_broken=0.9), 20)) == 20


@pytest.mark.parametrize("workers", [0, 1])
def test_all_broken_fails_at_once(tmp_path, workers):
    with pytest.raises(DataError, match="none of the first 5 picture"):
        train_batches(folder(tmp_path, 0, 5), **SMALL, seed=0, workers=workers)


def test_a_hundred_in_a_row_stop_the_run():
    class Gap(Source):
        def __len__(self):
            return 1000

        def image(self, i):
            if 1 <= i <= 500:
                raise OSError("gone")
            return np.zeros((6, 6, 1), np.uint8)

    with pytest.raises(DataError, match="too many broken"):
        take(train_batches(Gap(), **SMALL, seed=0, max_broken=1.0), 100)


def test_wrong_channels_fail_at_once(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((6, 6, 5), np.uint8))
    source = open_source(str(tmp_path), "all", layout=Layout("YXC"))
    with pytest.raises(DataError, match=r"a.npy.*5 channel.*1 are asked"):
        train_batches(source, **SMALL, seed=0)
    with pytest.raises(DataError, match="set --config.data.axes"):
        train_batches(open_source(str(tmp_path), "all"), **SMALL, seed=0)


def test_bad_arguments_are_refused(digits):
    with pytest.raises(ValueError, match="does not divide"):
        train_batches(digits, **ARGUMENTS, process_count=3)
    with pytest.raises(ValueError, match="must not be negative"):
        train_batches(digits, **(ARGUMENTS | {"seed": -1}))


# One ordered pass


def test_one_pass_in_order_with_a_padded_end(digits):
    found = list(batches(digits, size=8, channels=1, batch_size=100))
    assert [b["mask"].sum() for b in found] == [100, 100, 100, 59]
    assert all(b["image"].shape == (100, 8, 8, 1) for b in found)
    whole = {key: np.concatenate([b[key][b["mask"]] for b in found]) for key in found[0]}
    assert np.array_equal(whole["index"], np.arange(359))
    assert np.array_equal(whole["image"], digits.images)
    assert np.array_equal(whole["label"], digits.labels)


def test_one_pass_over_chosen_pictures(digits):
    [batch] = batches(digits, size=(16, 8), channels=3, batch_size=4, indices=[7, 3])
    assert batch["index"].tolist() == [7, 3, -1, -1] and batch["image"].shape == (4, 16, 8, 3)
    assert batch["mask"].tolist() == [True, True, False, False] and batch["image"][2:].max() == 0


@pytest.mark.parametrize("workers, broken", [(0, 1), (2, 1), (0, 7)])
def test_one_pass_masks_what_is_broken_and_names_a_few(tmp_path, caplog, workers, broken):
    with caplog.at_level(logging.WARNING):
        iterator = batches(folder(tmp_path, 20 - broken, broken), **SMALL, workers=workers)
        masks = [batch["mask"] for batch in iterator]
        iterator.close()
    assert np.flatnonzero(~np.concatenate(masks)).tolist() == list(range(broken))
    assert list(iterator.broken) == [str(tmp_path / f"{k:03d}.png") for k in range(broken)]
    said = [r.getMessage() for r in caplog.records if "broken picture" in r.getMessage()]
    for k, line in enumerate(said[:5]):
        assert line.startswith(f"broken picture skipped: {tmp_path / f'{k:03d}.png'} (cannot ide")
    assert said[5:] == (["and 2 more broken pictures"] if broken == 7 else [])
