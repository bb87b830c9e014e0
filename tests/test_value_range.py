"""Values on the way from files to the network: what laboratories have, and nothing of it lost."""

import json
import logging
import shutil
import warnings

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

import pdae_jax
from pdae_jax import images
from pdae_jax.commands import reconstruct
from pdae_jax.commands.context import Context
from pdae_jax.commands.page_command import run_page
from pdae_jax.data import Data, DataError, ValueRange, batches, open_source, train_batches
from pdae_jax.data.range_search import find
from pdae_jax.data.transforms import prepare, resize
from pdae_jax.formats.stack import Layout, Picture
from pdae_jax.training.log import Log
from pdae_jax.training.prerequisites import settle_range
from pdae_jax.value_range import EIGHT_BIT, parse
from pdae_jax.workdir.records import Records
from pdae_jax.workdir.workdir import Workdir

SHAPE = (64, 64)


def levels(top, dtype, low=0):
    """A picture with every whole value from `low` to `top`, as often as they fit."""
    return np.resize(np.arange(low, top + 1), SHAPE).astype(dtype)


def save_png(path, image):
    Image.fromarray(image).save(path)


def save_tiff(path, image):
    tifffile.imwrite(path, image)


def save_npy(path, image):
    np.save(path, image)


def read(folder, setting, channels=1, size=SHAPE):
    """All pictures of a folder as they go to the network, and their range."""
    data = Data(f"folder:{folder}", range=setting)
    value_range, words = find(data.open("all"), setting, channels)
    source = data.open("all", value_range)
    with batches(source, size=size, channels=channels, batch_size=len(source)) as all_of_them:
        return next(all_of_them)["image"], value_range, words


# What people have: how it is written, the range found, and the line that the refusal tells to type.
WIDE = {
    "12 bits in a PNG": ("a.png", save_png, levels(4095, np.uint16), "0,4095"),
    "12 bits in a TIFF": ("a.tif", save_tiff, levels(4095, np.uint16), "0,4095"),
    "fluorescence to 900": ("a.tif", save_tiff, levels(900, np.uint16), "0,900"),
    "int32 to 200": ("a.npy", save_npy, levels(200, np.int32), "0,200"),
    "CT in Hounsfield units": ("a.tif", save_tiff, levels(3000, np.int16, -1000), "-1000,3000"),
    "z-scored floats": ("a.npy", save_npy, levels(4000, np.float32) / 800 - 2, "-2,3"),
}


@pytest.mark.parametrize("case", WIDE)
def test_values_that_do_not_tell_their_range_are_refused_with_the_line_to_type(tmp_path, case):
    name, save, image, setting = WIDE[case]
    save(tmp_path / name, image)
    with pytest.raises(DataError, match=rf"--config.data.range={setting} \(or auto") as error:
        find(open_source(str(tmp_path), "all"), "", 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", WIDE)
@pytest.mark.parametrize("by", ["auto", "LO,HI"])
def test_no_value_is_lost(tmp_path, case, by):
    """Every level that the file has arrives, and comes back in the file's own units."""
    name, save, image, setting = WIDE[case]
    save(tmp_path / name, image)
    found, value_range, words = read(tmp_path, "auto" if by == "auto" else setting)
    assert found.dtype == np.float32 and found.min() == -1 and found.max() == 1
    assert len(np.unique(found)) == len(np.unique(image))
    assert f"{value_range}" in words
    back = value_range.to_units(found)[0, ..., 0]
    assert np.abs(back - image).max() < 1e-3 * (image.max() - image.min()) / 4096


def test_sixteen_bits_that_are_used_are_the_limits_of_their_type(tmp_path):
    image = levels(65535, np.uint16)
    image[:2] = 65535
    save_png(tmp_path / "a.png", image)
    found, value_range, words = read(tmp_path, "")
    assert (value_range.low, value_range.high) == ((0.0,), (65535.0,)) and "uint16 holds" in words
    assert len(np.unique(found)) == len(np.unique(image))


def test_sixteen_bit_colour_keeps_its_bits(tmp_path):
    codecs = pytest.importorskip("imagecodecs")
    image = np.random.default_rng(0).integers(0, 2**16, (*SHAPE, 3), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(codecs.png_encode(image))
    found, value_range, _ = read(tmp_path, "dtype", channels=3)
    np.testing.assert_allclose(value_range.to_units(found)[0], image, atol=0.01)


@pytest.mark.parametrize("channels", [3, 5])
def test_every_channel_of_an_ome_tiff_arrives_with_its_name(tmp_path, channels):
    rng = np.random.default_rng(0)
    high = 500 * (1 + np.arange(channels))
    image = rng.integers(0, high[:, None, None], (channels, *SHAPE), dtype=np.uint16)
    names = [f"stain {k}" for k in range(channels)]
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    tifffile.imwrite(tmp_path / "a.ome.tif", image, photometric="minisblack", metadata=metadata)
    found, value_range, _ = read(tmp_path, "auto", channels)
    assert value_range.channels == tuple(names)
    assert value_range.high == tuple(map(float, image.max((1, 2))))  # each channel its own
    np.testing.assert_allclose(value_range.to_units(found)[0], image.transpose(1, 2, 0), atol=1e-3)


def test_pages_of_a_tiff_that_does_not_say_what_they_are_are_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((4, *SHAPE), np.uint8), photometric="minisblack", metadata=None
    )
    with pytest.raises(DataError, match="--config.data.axes"):
        find(open_source(str(tmp_path), "all"), "", 1)
    for axes, pictures, channels in (("CYX", 1, 4), ("ZYX", 4, 1)):
        source = Data(f"folder:{tmp_path}", axes=axes).open("all")
        assert len(source) == pictures and source.image(0).shape == (*SHAPE, channels)


def test_eight_bits_are_themselves(tmp_path):
    image = levels(255, np.uint8)
    save_png(tmp_path / "a.png", image)
    found, value_range, words = read(tmp_path, "")
    assert found.dtype == np.uint8 and np.array_equal(found[0, ..., 0], image)
    assert value_range.eight_bit and words == "8-bit pictures"
    assert np.array_equal(value_range.to_units(found)[0, ..., 0], image.astype(np.float32))
    dark, own, _ = read(tmp_path, "0,100")  # as asked for, 8-bit or not
    assert (
        dark.dtype == np.float32 and not own.eight_bit and (dark[0, ..., 0][image > 100] == 1).all()
    )


def test_a_deep_picture_among_8_bit_ones_is_named_and_skipped(tmp_path):
    for k in range(40):
        save_png(tmp_path / f"{k:02d}.png", levels(255, np.uint8))
    save_png(tmp_path / "deep.png", levels(4095, np.uint16))
    source = open_source(str(tmp_path), "all")
    with batches(source, size=SHAPE, channels=1, batch_size=41) as one:
        mask = next(one)["mask"]
        assert mask.sum() == 40
        [(path, reason)] = one.broken.items()
    assert path.endswith("deep.png") and "8-bit pictures are expected" in reason


def test_number_types_that_differ_are_refused_until_said(tmp_path):
    save_png(tmp_path / "a.png", levels(255, np.uint8))
    save_png(tmp_path / "b.png", levels(65535, np.uint16))
    with pytest.raises(DataError, match="uint16 and uint8 .*of several number types"):
        find(open_source(str(tmp_path), "all"), "", 1)


def test_percentiles_of_the_data_set_and_of_each_picture(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(8):
        save_tiff(tmp_path / f"{k}.tif", rng.integers(0, 1000 * (k + 1), SHAPE, dtype=np.uint16))
    found, value_range, _ = read(tmp_path, "percentile:1,99")
    assert 0.015 < (np.abs(found) == 1).mean() < 0.025  # one in a hundred on each side
    own, each, _ = read(tmp_path, "percentile:1,99:picture")
    assert np.abs((np.abs(own) == 1).mean((1, 2, 3)) - 0.02).max() < 0.01
    with pytest.raises(ValueError, match="each scaled by their own percentile:1,99"):
        each.to_units(own)


def test_a_dicoms_window(tmp_path):
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    one.Rows, one.Columns = SHAPE
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
    one.SamplesPerPixel, one.PixelRepresentation = 1, 0
    one.PhotometricInterpretation = "MONOCHROME2"
    one.RescaleSlope, one.RescaleIntercept = 1, -1024
    one.WindowCenter, one.WindowWidth = 40, 400
    stored = levels(4095, np.uint16)
    one.PixelData = stored.tobytes()
    one.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    units = stored.astype(float) - 1024
    found, value_range, _ = read(tmp_path, "window")
    np.testing.assert_allclose(found[0, ..., 0], np.clip((units - 40) / 200, -1, 1), atol=1e-6)
    found, value_range, words = read(tmp_path, "")  # 12 bits that are used, as its header says
    assert (value_range.low, value_range.high) == ((-1024.0,), (3071.0,))
    np.testing.assert_allclose(value_range.to_units(found)[0, ..., 0], units, atol=1e-3)


def test_values_that_are_not_finite_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.full(SHAPE, 0.5, np.float32))
    bad = np.full(SHAPE, 0.5, np.float32)
    bad[3, 4] = np.nan
    np.save(tmp_path / "b.npy", bad)
    source = Data(f"folder:{tmp_path}").open("all", ValueRange((0.0,), (1.0,)))
    with batches(source, size=SHAPE, channels=1, batch_size=2) as one:
        assert next(one)["mask"].tolist() == [True, False]
        assert list(one.broken.values()) == ["1 values are NaN or infinite"]


def test_values_out_of_the_range_are_clipped_counted_and_said(tmp_path, caplog):
    for k, top in enumerate((100, 100, 200)):
        np.save(tmp_path / f"{k}.npy", levels(top, np.int32))
    source = Data(f"folder:{tmp_path}").open("all", ValueRange((0.0,), (100.0,)))
    with caplog.at_level(logging.WARNING):
        with batches(source, size=SHAPE, channels=1, batch_size=3) as one:
            assert next(one)["image"].max() == 1
    assert one.outside == {str(tmp_path / "2.npy")}
    assert "1 picture(s) of folder" in caplog.text and "out of the range 0 to 100" in caplog.text


def test_resizing_in_float_is_the_8_bit_one_without_its_rounding():
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 4), dtype=np.uint8)
    for size in ((16, 16), (64, 40), (37, 53)):
        rounded = resize(image, *size).astype(np.float32)
        exact = resize(image.astype(np.float32), *size)
        assert np.abs(exact - rounded).max() <= (1.0 if size != (37, 53) else 0)
    value_range = ValueRange((0.0,), (255.0,))
    as_float = Picture(image.astype(np.float32))
    got, _ = prepare(as_float, 16, 4, (3, 33, 5, 45), value_range)
    want, _ = prepare(Picture(image), 16, 4, (3, 33, 5, 45))
    assert np.abs(value_range.to_units(got) - want).max() <= 1


def test_flips_are_of_the_same_values(tmp_path):
    np.save(tmp_path / "a.npy", levels(4095, np.uint16))
    data = Data(f"folder:{tmp_path}")
    source = data.open("all", find(data.open("all"), "auto", 1)[0])
    with train_batches(source, size=SHAPE, channels=1, batch_size=16, seed=0) as some:
        batch = next(some)["image"]
    plain, _ = prepare(source.read(0), SHAPE, 1, None, source.value_range)
    flipped = [np.array_equal(one, plain[:, ::-1]) for one in batch]
    assert 0 < sum(flipped) < 16
    assert all(turned or np.array_equal(one, plain) for one, turned in zip(batch, flipped))


@pytest.mark.parametrize(
    "text", ["1", "5,1", "percentile:9", "percentile:9,1", "percentile:1,99:file", "a,b", "dtyp"]
)
def test_settings_that_are_none_are_refused_at_the_door(text):
    with pytest.raises(DataError, match="range must be auto, dtype"):
        Data("digits", range=text)


def test_ranges_of_other_channels_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((*SHAPE, 3), np.uint16))
    source = open_source(str(tmp_path), "all")
    assert parse("0,1/0,2/0,3").high == (1.0, 2.0, 3.0)
    with pytest.raises(DataError, match="is of 2 channels, and the pictures have 3"):
        find(source, "0,1/0,2", 3)
    with pytest.raises(DataError, match="a channel is the same everywhere"):
        find(source, "auto", 3)


# In Python, where the range of a model decides.


class Model:
    """What `images.load` asks of one."""

    layout = Layout()

    class arch:
        image_shape = (*SHAPE, 1)

    def __init__(self, value_range):
        self.value_range = value_range


def test_files_and_arrays_are_loaded_in_a_models_units(tmp_path):
    model, image = Model(ValueRange((0.0,), (4095.0,))), levels(4095, np.uint16)
    save_png(tmp_path / "a.png", image)
    for given in (str(tmp_path / "a.png"), image, [image], Image.fromarray(image)):
        x = images.load(given, model)
        np.testing.assert_allclose(model.value_range.to_units(x)[0, ..., 0], image, atol=1e-3)
    with pytest.warns(UserWarning, match="1 picture.* out of the range 0 to 4095"):
        images.load(image + np.uint16(1), model)
    with pytest.raises(ValueError, match="an 8-bit picture, where values from 0 to 4095"):
        images.load(levels(255, np.uint8), model)
    as_asked = images.load(levels(255, np.uint8), model, value_range=(0, 255))
    assert as_asked.min() == -1 and as_asked.max() == 1


def test_a_model_without_a_range_asks_for_one(tmp_path):
    save_png(tmp_path / "a.png", levels(4095, np.uint16))
    with pytest.raises(ValueError, match="use a small part"):
        images.load(str(tmp_path), Model(None))
    with pytest.raises(ValueError, match="8-bit pictures are expected.*0,4095"):
        images.load(str(tmp_path), Model(EIGHT_BIT))
    with pytest.raises(ValueError, match="do not tell.*value_range"):
        images.load(levels(4095, np.uint16), Model(None))


def test_batches_of_arrays_in_a_models_units():
    own = ValueRange((0.0, 10.0), (100.0, 20.0))
    x = np.stack([np.full((4, 4), 25), np.full((4, 4), 20)], -1)[None].astype(np.uint16)
    for given in (None, own):
        got = images.checked(x, given, own)[0:1]
        np.testing.assert_allclose(got[0, 0, 0], [-0.5, 1.0], atol=1e-6)
    with pytest.warns(UserWarning, match="1 of 1 images have values out of the range"):
        images.checked(x + np.uint16(1), None, own)
    with pytest.raises(ValueError, match="or model.value_range"):
        images.checked(x.astype(np.float32), None, own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(images.checked(x.astype(np.float32), own, own)[:]).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
def test_any_number_of_channels_can_be_seen(channels):
    x = np.full((2, 4, 4, channels), -1, np.float32)
    shown = images.visible(x)
    assert shown.dtype == np.uint8 and shown.shape[-1] in (1, 3) and shown.max() == 0
    for k in range(channels):  # each alone is seen, and no two alike below nine
        one = x.copy()
        one[..., k] = 1
        assert images.visible(one).max() > 80
    if channels not in (1, 3):
        colours = images.channel_colours(channels)
        assert len(colours) == channels
        alone = [
            images.visible(np.eye(channels, dtype=np.float32)[k] * 2 - 1) for k in range(channels)
        ]
        assert len({tuple(one) for one in alone}) == min(channels, 8 if channels != 2 else 2)


# Kept with the model.


def test_clipped_training_pictures_are_named_once_and_counted(tmp_path, capsys):
    log = Log(Records(tmp_path), "dpm", 0, 10, 4)
    for paths in (set(), {"b.tif", "a.tif"}, {"a.tif", "b.tif", "c.tif"}):
        log.clipped_pictures(paths)
    log.close()
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("values out of the range, clipped to it: a.tif and 1 more")
    assert sum("out of the range" in line for line in said) == 1


@pytest.fixture
def deep(tmp_path):
    """Digits as a 12-bit camera has them."""
    digits, folder = open_source("digits", "test"), tmp_path / "deep"
    folder.mkdir()
    for k in range(4):
        save_png(folder / f"{k}.png", digits.image(k)[..., 0].astype(np.uint16) * 16)
    return folder


def test_commands_take_the_range_of_new_pictures(workdir, deep, tmp_path, capsys):
    """Of which the model's own, 8 bits here, says nothing."""
    how = {"n": 4, "steps": 2, "invert_steps": 2, "images": str(deep)}
    with pytest.raises(ValueError, match="8-bit pictures are expected: say with the option range"):
        run_page("reconstruct", workdir, reconstruct.Options(**how), out=tmp_path / "no")
    options = reconstruct.Options(**how, range="0,4080")
    output = run_page("reconstruct", workdir, options, out=tmp_path / "out")
    assert "values from 0 to 4080; the model's own are 0 to 255" in capsys.readouterr().err
    [numbers] = [json.loads((output.folder / "numbers.json").read_text())["numbers"]]
    assert len(numbers["rmse_in_units"]["z alone"]) == 1
    context = Context(Workdir(workdir), options, output)
    digits = np.stack([open_source("digits", "test").image(k) for k in range(4)])
    np.testing.assert_allclose(context.pictures(), images.to_float(digits), atol=1e-6)
    with pytest.raises(ValueError, match="range = 0,4080 is of --images=PATH"):
        reconstruct.Options(range="0,4080")


def test_a_range_stays_with_what_was_trained(workdir, deep, tmp_path):
    arch = Workdir(workdir).architecture
    data = Data(f"folder:{deep}", range="auto")
    found, words = settle_range(Workdir(tmp_path / "new"), data, arch, None)
    assert found.high == (4080.0,) and "kept with the model" in words[0]
    with pytest.raises(DataError, match="use a small part of what the type holds"):
        settle_range(Workdir(tmp_path / "new"), Data(data.name), arch, None)
    trained = Workdir(shutil.copytree(workdir, tmp_path / "run"))
    assert trained.value_range == EIGHT_BIT
    trained.write_value_range(found)
    trained = Workdir(tmp_path / "run")
    for setting in ("", "auto", "0,4080"):
        assert settle_range(trained, Data(data.name, range=setting), arch, None) == (found, [])
    with pytest.raises(ValueError, match="was trained with values from 0 to 4080.*range=0,4095"):
        settle_range(trained, Data(data.name, range="0,4095"), arch, None)
    other = Workdir(tmp_path / "other")  # over a pre-trained model: as that was trained
    assert settle_range(other, Data(data.name), arch, tmp_path / "run") == (found, [])
    model = pdae_jax.load(tmp_path / "run")
    assert model.value_range == found
    assert model.to_units(np.ones((8, 8, 1), np.float32)).max() == 4080
    assert pdae_jax.load(workdir).to_units(np.zeros((8, 8, 1), np.uint8)).max() == 0


def test_files_of_other_numbers_are_refused(tmp_path):
    """Counts divided by something would be black in the range of counts."""
    save_tiff(tmp_path / "a.tif", levels(4000, np.uint16))
    found, _ = find(open_source(f"folder:{tmp_path}", "all"), "auto", 1)
    assert found.numbers == "integers"
    (tmp_path / "new").mkdir()
    save_tiff(tmp_path / "new" / "a.tif", levels(4000, np.float32) / 65535)
    with pytest.raises(ValueError, match="a.tif: floats, 0 to 0.061.*, where integers from 0 to 4"):
        images.load(tmp_path / "new", Model(found))
    source = Data(f"folder:{tmp_path / 'new'}").open("all", found)
    with pytest.raises(DataError, match="floats, 0 to 0.06"):
        with batches(source, size=SHAPE, channels=1, batch_size=1) as some:
            next(iter(some))


def test_floats_that_use_a_small_part_of_0_to_1_are_no_guess(tmp_path):
    save_tiff(tmp_path / "a.tif", levels(4000, np.float32) / 65535)
    with pytest.raises(DataError, match="do not tell which are black and white"):
        find(open_source(f"folder:{tmp_path}", "all"), "", 1)


def test_channels_of_another_order_are_refused(tmp_path):
    for name, order in (("a", ("red", "green")), ("b", ("green", "red")), ("c", ("x", "y"))):
        (tmp_path / name).mkdir()
        tifffile.imwrite(
            tmp_path / name / "0.ome.tif",
            np.zeros((2, 8, 8), np.uint16),
            metadata={"axes": "CYX", "Channel": {"Name": list(order)}},
        )
    data = Data(f"folder:{tmp_path / 'a'}", range="0,4095")
    found, _ = find(data.open("all"), "0,4095", 2)
    assert found.channels == ("red", "green")
    data.open("all", found)
    with pytest.raises(DataError, match="channels green, red, where red, green .* channels to 1,0"):
        Data(f"folder:{tmp_path / 'b'}").open("all", found)
    Data(f"folder:{tmp_path / 'b'}", channels=(1, 0)).open("all", found)
    with pytest.raises(DataError, match="choose others, or name them alike"):
        Data(f"folder:{tmp_path / 'c'}").open("all", found)


def test_files_are_loaded_by_the_models_layout(tmp_path):
    planes = np.stack([levels(4000, np.uint16) // k for k in (1, 2, 4)])
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="minisblack")
    model = Model(ValueRange((0.0,), (4095.0,)))
    with pytest.raises(ValueError, match="axes"):
        images.load(tmp_path / "a.tif", model)
    model.layout = Layout("CYX", (2,))
    x = images.load(tmp_path / "a.tif", model)
    np.testing.assert_allclose(x[0, ..., 0], planes[2] / 4095 * 2 - 1, atol=1e-6)
    x = images.load(tmp_path / "a.tif", model, layout=Layout("CYX", (0,)))
    np.testing.assert_allclose(x[0, ..., 0], planes[0] / 4095 * 2 - 1, atol=1e-6)


def test_8_bit_arrays_are_refused_where_counts_are_expected():
    with pytest.raises(ValueError, match=r"8-bit pictures, where .* pass value_range=\(0, 255\)"):
        images.checked(np.zeros((1, 4, 4, 1), np.uint8), own=ValueRange((0.0,), (4095.0,)))


def test_sparse_and_blank_channels_have_a_range_of_their_own():
    own = ValueRange(own="percentile:1,99", beyond=1.0)
    sparse, blank = np.zeros((2, 32, 32, 1), np.uint16)
    sparse[3, 3:6] = 900
    x, _ = own.scale(Picture(sparse))
    assert x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(own.scale(Picture(blank))[0], -1.0)
