"""Formats: each file written by the format's own library, and read back in its own numbers."""

import builtins
import concurrent.futures
import gzip
import io
import json
import pickle
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib

import h5py
import imagecodecs
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
import zarr
from PIL import Image, ImageOps
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid

from pdae_jax.formats import dicom, files, hdf5, nifti, pillow_file, stack, tiff, zip_archive
from pdae_jax.formats.errors import DataError, require
from pdae_jax.formats.stack import ArrayStack, File, Layout

rng = np.random.default_rng(0)


def draw(shape, dtype=np.uint16, low=0, high=None):
    return rng.integers(low, high or np.iinfo(dtype).max, shape, dtype, endpoint=True)


def opened(path, **layout):
    """The stack of a file as a worker process would have it."""
    return pickle.loads(pickle.dumps(files.open_stack(str(path), Layout(**layout))))


def values(path, k=0, **layout):
    return opened(path, **layout).picture(k).values


def check(actual, expected):
    """Equal in value and type; `expected` may lack the axis of one channel."""
    expected = expected if expected.ndim == 3 else expected[..., None]
    assert actual.dtype == expected.dtype and actual.dtype.isnative
    np.testing.assert_array_equal(actual, expected)


def last(planes):
    return np.moveaxis(planes, 0, -1)


def before(path):
    """A picture of 8 bits by Pillow alone, as this package has always read it."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:
        grey = image.mode == "LA"
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if grey else "RGB")
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


class Counted(File):
    """A file of which the bytes read are counted."""

    read = 0

    def source(self):
        class Reader(io.FileIO):
            def readinto(self, buffer):
                count = super().readinto(buffer)
                Counted.read += count
                return count

            def read(self, size=-1):
                data = super().read(size)
                Counted.read += len(data)
                return data

        return Reader(self.path)


def bytes_of(read):
    Counted.read = 0
    read()
    return Counted.read


@pytest.fixture
def absent(monkeypatch):
    """Makes a package one that is not installed."""

    def make(package):
        there = builtins.__import__

        def missing(name, *args, **kwargs):
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}")
            return there(name, *args, **kwargs)

        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(builtins, "__import__", missing)
        monkeypatch.setattr("importlib.import_module", missing)

    return make


# Pillow


EXIF = Image.Exif()
EXIF[0x0112] = 6
PICTURES = {
    "grey.png": (Image.fromarray(draw((7, 9), np.uint8)), {}),
    "rgb.png": (Image.fromarray(draw((7, 9, 3), np.uint8)), {}),
    "rgba.png": (Image.fromarray(draw((7, 9, 4), np.uint8)), {}),
    "la.png": (Image.fromarray(draw((7, 9, 2), np.uint8), "LA"), {}),
    "palette.gif": (Image.fromarray(draw((7, 9, 3), np.uint8)).quantize(8), {}),
    "bits.png": (Image.fromarray(draw((7, 9), np.uint8) > 99), {}),
    "photo.jpg": (Image.fromarray(draw((7, 9, 3), np.uint8)), {"exif": EXIF}),
    "cmyk.jpg": (Image.fromarray(draw((7, 9, 4), np.uint8), "CMYK"), {}),
    "web.webp": (Image.fromarray(draw((7, 9, 3), np.uint8)), {"lossless": True}),
    "map.bmp": (Image.fromarray(draw((7, 9, 3), np.uint8)), {}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_8_bits_are_as_they_were(tmp_path, name):
    image, more = PICTURES[name]
    image.save(tmp_path / name, **more)
    picture = opened(tmp_path / name).picture(0)
    check(picture.values, before(tmp_path / name))
    assert picture.limits is None and picture.window is None


def test_16_bits_of_grey_png_need_no_package(tmp_path, absent):
    grey = draw((7, 9))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    few = draw((7, 9), high=4095)  # 12 bits, or a fluorescence that is never bright
    Image.fromarray(few).save(tmp_path / "few.png")
    absent("imagecodecs")
    check(values(tmp_path / "grey.png"), grey)
    check(values(tmp_path / "few.png"), few)


def test_16_bits_of_coloured_png(tmp_path, absent):
    rgb, rgba, la = draw((7, 9, 3)), draw((7, 9, 4)), draw((7, 9, 2))
    for name, picture in {"rgb": rgb, "rgba": rgba, "la": la}.items():
        (tmp_path / f"{name}.png").write_bytes(imagecodecs.png_encode(picture))
    check(values(tmp_path / "rgb.png"), rgb)
    check(values(tmp_path / "rgb.png", channels=(2, 0)), rgb[..., [2, 0]])
    for name, picture in {"rgba": rgba, "la": la}.items():  # on white
        alpha = picture[..., -1:] / 65535
        white = picture[..., :-1] * alpha + 65535 * (1 - alpha)
        check(values(tmp_path / f"{name}.png"), np.round(white).astype(np.uint16))
    absent("imagecodecs")
    with pytest.raises(DataError, match=r"16-bit PNG.*pip install 'pdae_jax\[png16\]'"):
        values(tmp_path / "rgb.png")


def png(width, height, depth, colour, rows, *chunks):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = [chunk(*one) for one in (*chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(body)


def test_16_bits_of_png_keep_orientation_and_the_transparent_colour(tmp_path):
    rgb = np.array([[[1, 2, 3], [400, 500, 600]]], np.uint16)
    rows = b"\0" + rgb.astype(">u2").tobytes()
    clear = (b"tRNS", struct.pack(">HHH", 1, 2, 3))
    (tmp_path / "rgb.png").write_bytes(png(2, 1, 16, 2, rows, clear))
    check(values(tmp_path / "rgb.png"), np.array([[[65535] * 3, [400, 500, 600]]], np.uint16))
    grey = b"\0" + rgb[..., 0].astype(">u2").tobytes()
    (tmp_path / "g.png").write_bytes(png(2, 1, 16, 0, grey, (b"tRNS", struct.pack(">H", 400))))
    check(values(tmp_path / "g.png"), np.array([[1, 65535]], np.uint16))
    exif = (b"eXIf", EXIF.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "turned.png").write_bytes(png(2, 1, 16, 2, rows, exif))
    check(values(tmp_path / "turned.png"), rgb.swapaxes(0, 1))


def test_orientations_are_those_of_pillow():
    picture = draw((3, 4), np.uint8)
    for orientation in range(1, 9):
        exif, image = Image.Exif(), Image.fromarray(picture)
        exif[0x0112] = orientation
        image.info["exif"] = exif.tobytes()
        check(pillow_file.turned(picture[..., None], orientation), pillow_file.of_pil(image))


def test_more_bits_in_other_formats_of_pillow(tmp_path):
    grey, rgb = draw((7, 9), high=4095), draw((7, 9, 3), high=4095)
    for name, picture in {"grey.jp2": grey, "rgb.jp2": rgb}.items():
        data = imagecodecs.jpeg2k_encode(picture, level=0, bitspersample=12, reversible=True)
        (tmp_path / name).write_bytes(data)
        check(values(tmp_path / name), picture)
        assert opened(tmp_path / name).picture(0).limits == (0, 4095)
    avif = imagecodecs.avif_encode(rgb, bitspersample=12, level=100)
    (tmp_path / "a.avif").write_bytes(avif)
    picture = opened(tmp_path / "a.avif").picture(0)
    assert picture.limits == (0, 4095) and picture.values.max() > 255
    for kind, pixels in {"P5": grey, "P6": rgb}.items():
        data = f"{kind}\n9 7\n4095\n".encode() + pixels.astype(">u2").tobytes()
        (tmp_path / "a.ppm").write_bytes(data)
        check(values(tmp_path / "a.ppm"), pixels)
        assert opened(tmp_path / "a.ppm").picture(0).limits == (0, 4095)
    plain = f"P2\n9 7 # grey\n4095\n{' '.join(map(str, grey.ravel()))}\n"
    (tmp_path / "a.pgm").write_text(plain)
    check(values(tmp_path / "a.pgm"), grey)


def test_what_pillow_would_read_wrong_is_refused(tmp_path):
    cards = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": 2, "NAXIS2": 1}
    lines = [f"{key:8}= {value:>20}".ljust(80) for key, value in cards.items()]
    header = "".join([*lines, "END".ljust(80)]).ljust(2880).encode()
    (tmp_path / "a.fits").write_bytes(header + np.array([-1, 5], ">i2").tobytes().ljust(2880))
    with pytest.raises(DataError, match="FITS of numbers.*save it as"):
        values(tmp_path / "a.fits")


def test_a_bomb_is_one_error(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(100_000, 100_000, 8, 0, b"\0" * 10**6))
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"bomb.png: a picture of .*: cut it into tiles"):
        values(tmp_path / "bomb.png")
    assert time.perf_counter() - start < 1
    (tmp_path / "much.png").write_bytes(png(14_000, 7_000, 1, 0, b"\0" * 1751 * 7000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own limit is lower
        assert values(tmp_path / "much.png").shape == (7_000, 14_000, 1)
    with pytest.raises(DataError, match="100,000 x 100,000 pixels"):
        ArrayStack("bomb", (100_000, 100_000), "YX", list)


def test_what_a_picture_cannot_obey_is_refused(tmp_path):
    Image.fromarray(draw((7, 9, 3), np.uint8)).save(tmp_path / "a.png")
    check(values(tmp_path / "a.png", axes="YXC"), values(tmp_path / "a.png"))
    for layout, option in (({"axes": "CYX"}, "axes"), ({"slices": "0::"}, "slices")):
        with pytest.raises(DataError, match=f"--config.data.{option}"):
            opened(tmp_path / "a.png", **layout)
    with pytest.raises(DataError, match=r"has 3 channel\(s\), 0 to 2, and channel 3 is asked for"):
        values(tmp_path / "a.png", channels=(0, 3))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="b.png"):
        values(tmp_path / "b.png")


# TIFF


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd"])
@pytest.mark.parametrize("how", [{}, {"tile": (16, 16)}, {"rowsperstrip": 7}, {"bigtiff": True}])
def test_pages_are_channels_or_pictures(tmp_path, compression, how):
    pages, path = draw((5, 32, 40), high=900), tmp_path / "a.tif"
    more = {"photometric": "minisblack", "compression": compression, **how}
    tifffile.imwrite(path, pages, metadata=None, **more)
    with pytest.raises(DataError, match=r"5 pages.*--config.data.axes=CYX.*ZYX") as error:
        opened(path)
    assert "\n" not in str(error.value)
    assert len(opened(path, axes="CYX")) == 1
    check(values(path, axes="CYX"), last(pages))
    check(values(path, axes="CYX", channels=(0, 2, 4)), last(pages[[0, 2, 4]]))
    assert len(opened(path, axes="ZYX")) == 5
    check(values(path, 3, axes="ZYX"), pages[3])
    assert len(opened(path, slices="0:1:3")) == 2
    check(values(path, 1, slices="0:1:3"), pages[2])


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", ">u2", "i4", "u4", "f4", "f8"])
def test_numbers_of_a_tiff_are_its_own(tmp_path, dtype):
    picture = (rng.normal(size=(7, 9)) * 100 + 128).clip(0, 255 if dtype == "u1" else None)
    picture = picture.clip(-500 if dtype[-2] != "u" else 0).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", picture)
    check(values(tmp_path / "a.tif"), picture.astype(picture.dtype.newbyteorder("=")))


def test_ome_tiff(tmp_path):
    path, five = tmp_path / "a.ome.tif", draw((2, 3, 5, 32, 40))
    metadata = {"axes": "TZCYX", "Channel": {"Name": list("abcde")}}
    tifffile.imwrite(path, five, metadata=metadata, compression="zlib")
    several = opened(path, channels=(4, 0))
    assert len(several) == 6 and several.channel_names == ("e", "a")
    check(several.picture(4).values, last(five[1, 1, [4, 0]]))
    three = draw((3, 32, 40))
    tifffile.imwrite(path, three, metadata={"axes": "CYX"}, photometric="minisblack")
    assert len(opened(path)) == 1
    check(values(path), last(three))
    with tifffile.TiffWriter(path, ome=True) as writer:  # a pyramid: its finest level
        writer.write(three, subifds=1, metadata={"axes": "CYX"}, photometric="minisblack")
        writer.write(three[:, ::2, ::2], subfiletype=1, photometric="minisblack")
    check(values(path), last(three))


def test_channels_of_colours_are_named(tmp_path):
    path, both = tmp_path / "a.ome.tif", draw((2, 32, 40, 3), np.uint8)
    tifffile.imwrite(path, both, metadata={"axes": "CYXS"}, photometric="rgb")
    with pytest.raises(DataError, match=r"2 channels \(C\) of 3 colours.*--config.data.axes.*NYXC"):
        opened(path)
    check(values(path, 1, axes="NYXC"), both[1])
    tifffile.imwrite(path, both[:1], metadata={"axes": "CYXS"}, photometric="rgb")
    check(values(path), both[0])
    tifffile.imwrite(tmp_path / "plain.tif", both, metadata=None, photometric="rgb")
    assert len(opened(tmp_path / "plain.tif")) == 2  # pages of colours can only be pictures
    check(values(tmp_path / "plain.tif", 1), both[1])


def test_imagej(tmp_path):
    path, five = tmp_path / "a.tif", draw((2, 3, 5, 32, 40))
    tifffile.imwrite(path, five, imagej=True, metadata={"axes": "TZCYX"})
    assert len(opened(path)) == 6
    check(values(path, 5), last(five[1, 2]))
    metadata = {"axes": "CYX", "Labels": list("vwxyz")}
    tifffile.imwrite(path, five[0, 0], imagej=True, metadata=metadata)
    assert opened(path, channels=(1, 0)).channel_names == ("w", "v")


def test_one_page_that_stands_for_many(tmp_path):
    pages = draw((6, 32, 40))
    tifffile.imwrite(tmp_path / "a.tif", pages, truncate=True, metadata={"axes": "ZYX"})
    check(values(tmp_path / "a.tif", 4), pages[4])
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[:-100])
    check(values(tmp_path / "cut.tif", 4), pages[4])
    with pytest.raises(DataError, match="page 5 is cut off"):
        values(tmp_path / "cut.tif", 5)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_samples_of_a_tiff(tmp_path, planar):
    path = tmp_path / "a.tif"

    def write(picture, **more):
        picture = picture if planar == "contig" else np.moveaxis(picture, -1, 0)
        tifffile.imwrite(path, picture, metadata=None, planarconfig=planar, **more)
        return values(path)

    rgb, rgba, rgba8 = draw((32, 40, 3)), draw((32, 40, 4)), draw((32, 40, 4), np.uint8)
    check(write(rgb, photometric="rgb", compression="lzw"), rgb)
    check(values(path, channels=(1,)), rgb[..., 1:2])
    check(write(rgba8, photometric="minisblack"), rgba8)  # four stains, not transparency
    check(write(rgba8, photometric="rgb", extrasamples=["unspecified"]), rgba8)
    check(write(rgba8, photometric="rgb"), pillow_file.of_pil(Image.fromarray(rgba8)))
    # What tifffile writes of four stains, unasked: believed of 8 bits alone.
    with pytest.raises(DataError, match="last of 4 channels of uint16 is tagged as transp.*0,1"):
        write(rgba, photometric="rgb")
    check(values(path, channels=(0, 1, 2, 3)), rgba)
    check(values(path, axes="YXC" if planar == "contig" else "CYX"), rgba)
    dark = rgba // np.uint16(2)
    dark[..., 3] = 40_000
    mixed = (dark[..., :3] + np.uint16(65535 - 40_000)).astype(np.uint16)
    check(write(dark, photometric="rgb", extrasamples=["assocalpha"]), mixed)


def test_tiff_of_pillow_is_as_it_was(tmp_path):
    for name, (image, more) in PICTURES.items():
        path = tmp_path / f"{name}.tif"
        image.save(path, **more)
        check(values(path), before(path))
    rgb = Image.fromarray(draw((16, 24, 3), np.uint8))
    for name, image, more in (
        ("jpeg", rgb, {"compression": "jpeg"}),
        ("fax", rgb.convert("1"), {"compression": "group4"}),
        ("ycbcr", rgb.convert("YCbCr"), {}),
        ("lab", rgb.convert("LAB"), {}),
    ):
        image.save(tmp_path / f"{name}.tif", **more)
        check(values(tmp_path / f"{name}.tif"), before(tmp_path / f"{name}.tif"))


def test_white_is_zero(tmp_path):
    for dtype, total in (("u1", 255), ("u2", 65535), ("i2", -1)):
        picture = draw((7, 9), dtype)
        tifffile.imwrite(tmp_path / "a.tif", picture, photometric="miniswhite", metadata=None)
        check(values(tmp_path / "a.tif"), (total - picture.astype(int)).astype(dtype))


def test_fewer_bits_than_the_type_are_said(tmp_path):
    picture = draw((7, 8), high=4095)
    pairs = picture.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").tobytes()
    rows = b"".join(packed[k + 1 : k + 4] for k in range(0, len(packed), 4))
    tags = [(256, 8), (257, 7), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 7)]
    tags.append((279, len(rows)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    where = 8 + len(rows)
    body = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", where) + rows + body)
    check(values(tmp_path / "a.tif"), picture)
    assert opened(tmp_path / "a.tif").picture(0).limits == (0, 4095)


@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
def test_a_damaged_page_is_one_picture(tmp_path, compression):
    path, pages = tmp_path / "a.tif", draw((5, 64, 64), np.uint8)
    tifffile.imwrite(path, pages, metadata={"axes": "ZYX"}, compression=compression)
    if compression:
        with tifffile.TiffFile(path) as tif:
            start, count = tif.pages[2].dataoffsets[0], tif.pages[2].databytecounts[0]
        data = bytearray(path.read_bytes())
        data[start : start + count] = b"\xff" * count
        path.write_bytes(data)
        with pytest.raises(Exception, match="."):
            values(path, 2)
        assert values(path, 1).shape == values(path, 3).shape == (64, 64, 1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="page 4 is cut off|cannot be read|is cut off"):
        values(path, 4)


def test_missing_pages_are_not_taken_for_the_end(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, draw((5, 64, 64)), metadata=None, photometric="minisblack")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cut off|cannot be read"):
        opened(path, axes="ZYX")


def test_images_of_several_shapes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(draw((32, 40)), metadata=None)
        writer.write(draw((16, 40)), metadata=None)
    with pytest.raises(DataError, match=r"2 images.*\[32, 40\] and \[16, 40\].*save each"):
        opened(tmp_path / "a.tif")


def test_one_page_of_many_is_read(tmp_path):
    path, pages = tmp_path / "a.tif", draw((200, 64, 64))
    tifffile.imwrite(path, pages, compression="zlib", metadata={"axes": "ZYX"})
    several = tiff.open_stack(Counted(str(path)), Layout())
    first = bytes_of(lambda: several.picture(150))
    assert bytes_of(lambda: several.picture(150)) < 3 * 64 * 64 * 2
    assert first < path.stat().st_size / 4
    whole = draw((40, 64, 64))
    tifffile.imwrite(path, whole, metadata={"axes": "CYX"}, ome=True, photometric="minisblack")
    several = tiff.open_stack(Counted(str(path)), Layout(channels=(0, 20)))
    several.picture(0)
    assert bytes_of(lambda: several.picture(0)) < 4 * 64 * 64 * 2


def test_threads_do_not_disturb_each_other(tmp_path):
    path, pages = tmp_path / "a.tif", draw((40, 64, 64))
    tifffile.imwrite(path, pages, compression="zlib", metadata={"axes": "ZYX"})
    several = opened(path)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for k, picture in zip(range(400), pool.map(lambda k: several.picture(k % 40), range(400))):
            check(picture.values, pages[k % 40])


def test_tiff_without_its_packages(tmp_path, absent):
    tifffile.imwrite(tmp_path / "a.tif", draw((7, 9)), compression="lzw")
    absent("imagecodecs")
    with pytest.raises(DataError, match=r"imagecodecs.*pip install 'pdae_jax\[tiff\]'"):
        opened(tmp_path / "a.tif")


# DICOM


def write_dicom(path, pixels, photometric="MONOCHROME2", bits=None, syntax=None, **more):
    """pixels: [h, w], [h, w, 3], or frames of the former."""
    dataset, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta, dataset.PhotometricInterpretation = meta, photometric
    dataset.SamplesPerPixel = 1 if photometric[0] in "MP" else 3
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    frames = pixels.ndim - (2 if dataset.SamplesPerPixel == 1 else 3)
    if frames:
        dataset.NumberOfFrames = len(pixels)
    dataset.Rows, dataset.Columns = pixels.shape[frames : frames + 2]
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in more.items():
        setattr(dataset, name, value)
    if syntax:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_dicom_values_are_the_modalitys(tmp_path):
    stored, path = draw((7, 9), high=4095), tmp_path / "a.dcm"
    window = {"WindowCenter": [40, 300], "WindowWidth": [400, 2000]}
    write_dicom(path, stored, bits=12, RescaleSlope=1, RescaleIntercept=-1024, **window)
    picture = opened(path).picture(0)
    check(picture.values, stored.astype(np.int32) - 1024)  # Hounsfield units
    assert picture.limits == (-1024, 3071) and picture.window == (-160, 240)
    write_dicom(path, stored, bits=12, RescaleSlope=0.5, RescaleIntercept=-3)
    check(values(path), (stored * np.float32(0.5) - 3).astype(np.float32))
    assert opened(path).picture(0).limits == (-3, 4095 / 2 - 3)
    write_dicom(path, stored, bits=12)
    check(values(path), stored)
    assert opened(path).picture(0).limits == (0, 4095) and opened(path).picture(0).window is None
    signed = draw((7, 9), np.int16, -1000, 3000)
    write_dicom(path, signed)
    check(values(path), signed)
    assert opened(path).picture(0).limits is None


def test_monochrome1_is_turned(tmp_path):
    stored, path = draw((7, 9), high=4095), tmp_path / "a.dcm"
    more = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 200, "WindowWidth": 100}
    write_dicom(path, stored, "MONOCHROME1", bits=12, **more)
    picture = opened(path).picture(0)
    check(picture.values, (4095 - stored.astype(np.int32)) * 2 - 100)
    assert picture.limits == (-100, 4095 * 2 - 100)
    assert picture.window == (4095 * 2 - 200 - 250, 4095 * 2 - 200 - 150)
    signed = draw((7, 9), np.int16, -2048, 2047)
    write_dicom(path, signed, "MONOCHROME1", bits=12)
    check(values(path), -1 - signed)


def test_bits_that_are_not_stored_are_not_read(tmp_path):
    stored = draw((7, 9), high=4095)
    write_dicom(tmp_path / "a.dcm", stored | np.uint16(0x8000), bits=12)  # an overlay's bit
    check(values(tmp_path / "a.dcm"), stored)


def test_a_modality_table(tmp_path):
    stored, table = draw((7, 9), np.uint8, high=3), Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "US"
    table.LUTData = [10, 500, 2000, 40_000]
    table["LUTData"].VR = "US"
    write_dicom(tmp_path / "a.dcm", stored, ModalityLUTSequence=[table])
    picture = opened(tmp_path / "a.dcm").picture(0)
    check(picture.values, np.array([10, 500, 2000, 40_000], np.uint16)[stored])
    assert picture.limits == (10, 40_000)


def test_frames_are_read_one_by_one(tmp_path):
    frames, path = draw((40, 32, 48), high=4095), tmp_path / "a.dcm"
    write_dicom(path, frames, bits=12)
    assert len(opened(path)) == 40
    check(values(path, 17), frames[17])
    check(values(path, 1, slices="0:5:9"), frames[6])
    several = dicom.open_stack(Counted(str(path)), Layout())
    assert bytes_of(lambda: several.picture(30)) < path.stat().st_size / 4
    with pytest.raises(DataError, match="--config.data.axes"):
        opened(path, axes="CYX")


def test_frames_have_their_own_slopes(tmp_path):
    frames, groups = draw((2, 7, 9), high=4095), []
    for slope in (1, 3):
        scale, window, group = Dataset(), Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = slope, -slope, "US"
        window.WindowCenter, window.WindowWidth = 100 * slope, 10
        group.PixelValueTransformationSequence = [scale]
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    path = write_dicom(tmp_path / "a.dcm", frames, PerFrameFunctionalGroupsSequence=groups)
    for k, slope in enumerate((1, 3)):
        check(values(path, k), frames[k].astype(np.int32) * slope - slope)
        assert opened(path).picture(k).window == (100 * slope - 5, 100 * slope + 5)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_dicom(tmp_path, syntax):
    frames = draw((3, 64, 96))
    write_dicom(tmp_path / "a.dcm", frames, syntax=syntax)
    check(values(tmp_path / "a.dcm", 2), frames[2])


def test_coloured_dicom(tmp_path):
    rgb, path = draw((8, 10, 3), np.uint8), tmp_path / "a.dcm"
    write_dicom(path, rgb, "RGB")
    check(values(path), rgb)
    check(values(path, channels=(2,)), rgb[..., 2:])
    grey = np.repeat(rgb[..., :1], 3, axis=-1)
    ybr = np.stack([rgb[..., 0], *2 * [np.full((8, 10), 128, np.uint8)]], axis=-1)
    write_dicom(path, ybr, "YBR_FULL")
    check(values(path), grey)
    photo = imagecodecs.jpeg8_encode(np.repeat(np.repeat(rgb, 8, 0), 8, 1), level=100)
    big = np.zeros((64, 80, 3), np.uint8)
    dataset = pydicom.dcmread(write_dicom(path, big, "RGB"))
    dataset.PixelData = pydicom.encaps.encapsulate([photo])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.save_as(path)
    assert np.abs(values(path).astype(int) - imagecodecs.jpeg8_decode(photo)).max() <= 3
    colours = {}
    for k, name in enumerate(("Red", "Green", "Blue")):
        colours[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        colours[f"{name}PaletteColorLookupTableData"] = bytes(np.roll(np.arange(256), k).tolist())
    write_dicom(path, rgb[..., 0], "PALETTE COLOR", **colours)
    index = rgb[..., 0].astype(int)
    check(values(path), np.stack([index, index - 1, index - 2], -1).astype(np.uint8))


def test_dicom_has_no_suffix(tmp_path):
    stored = draw((7, 9), high=4095)
    for name in ("IM0001", "1.2.840.113619.2.55.3"):
        write_dicom(tmp_path / name, stored)
        assert files.is_picture(tmp_path / name)
        check(values(tmp_path / name), stored)
    (tmp_path / "README").write_text("no picture")
    (tmp_path / "folder").mkdir()
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    for name in ("README", "folder", "DICOMDIR", "nothing", "notes.txt"):
        assert not files.is_picture(tmp_path / name)


def test_dicom_that_is_no_picture(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match=r"a.dcm is no DICOM"):
        opened(tmp_path / "a.dcm")
    path = write_dicom(tmp_path / "b.dcm", draw((7, 9)))
    dataset = pydicom.dcmread(path)
    del dataset.Rows
    dataset.Modality = "SR"
    dataset.save_as(path)
    with pytest.raises(DataError, match="a DICOM of SR without a picture"):
        opened(path)


# NIfTI


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_slices(tmp_path, suffix):
    path, volume = tmp_path / f"a.{suffix}", draw((6, 7, 8), np.int16, -1000, 3000)
    nibabel.Nifti1Image(volume, np.eye(4)).to_filename(path)
    assert len(opened(path)) == 8
    check(values(path, 3), volume[:, :, 3])
    assert len(opened(path, slices="1:2:5")) == 3
    check(values(path, 1, slices="1:2:5"), volume[:, 3])
    check(values(path, 5, slices="0::"), volume[5])
    check(values(path, 0, slices="2:7:"), volume[:, :, 7])
    for slices in ("3::", "2:5:99", "2:5:5", "sagittal"):
        with pytest.raises(DataError, match="--config.data.slices"):
            opened(path, slices=slices)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_of_four_axes(tmp_path, suffix):
    path, volumes = tmp_path / f"a.{suffix}", rng.normal(size=(6, 7, 8, 3)).astype(np.float32)
    nibabel.Nifti1Image(volumes, np.eye(4)).to_filename(path)
    assert len(opened(path)) == 24
    check(values(path, 8 + 5), volumes[:, :, 5, 1])
    check(values(path, 2, slices="2:5:7"), volumes[:, :, 5, 1])
    assert len(opened(path, axes="YXZC")) == 8
    check(values(path, 5, axes="YXZC", channels=(2, 0)), volumes[:, :, 5][..., [2, 0]])
    with pytest.raises(DataError, match="counts volumes"):
        opened(path, slices="3::")


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_is_scaled(tmp_path, suffix):
    path, volume = tmp_path / f"a.{suffix}", draw((6, 7, 8), np.int16, -1000, 3000)
    image = nibabel.Nifti1Image(volume, np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    image.to_filename(path)
    check(values(path, 2), nibabel.load(path).get_fdata()[:, :, 2].astype(np.float32))


def test_nifti_of_colours(tmp_path):
    colours = draw((6, 7, 8, 3), np.uint8)
    rgb = colours.copy().view([(name, "u1") for name in "RGB"])[..., 0]
    nibabel.Nifti1Image(rgb, np.eye(4)).to_filename(tmp_path / "a.nii")
    check(values(tmp_path / "a.nii", 4), colours[:, :, 4])
    check(values(tmp_path / "a.nii", 4, channels=(1,)), colours[:, :, 4, 1])


def test_nifti_is_unpacked_once(tmp_path, monkeypatch):
    path, volume = tmp_path / "a.nii.gz", draw((16, 16, 50), np.int16)
    nibabel.Nifti1Image(volume, np.eye(4)).to_filename(path)
    whole = nibabel.arrayproxy.ArrayProxy.get_unscaled
    calls = []
    monkeypatch.setattr(
        nibabel.arrayproxy.ArrayProxy, "get_unscaled", lambda *a: calls.append(1) or whole(*a)
    )
    several = opened(path)
    assert not calls
    for k in range(50):
        check(several.picture(k).values, volume[:, :, k])
    assert len(calls) == 1
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(Exception, match="."):
        opened(path).picture(0)


# HDF5 and Zarr


def test_hdf5(tmp_path):
    path, pictures = tmp_path / "a.h5", draw((5, 3, 20, 30))
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=pictures, chunks=(1, 3, 20, 30), compression="gzip")
        file["g/y"], file["ids"] = pictures[0, 0].astype(">i4"), np.arange(5)
    with pytest.raises(DataError, match=r"g/y \[20, 30\], x \[5, 3, 20, 30\]: give one.*a.h5:g/y"):
        opened(path)
    with pytest.raises(DataError, match="a.h5 has no array 'z'"):
        opened(f"{path}:z")
    with pytest.raises(DataError, match="--config.data.axes"):
        opened(f"{path}:x")
    check(values(f"{path}:g/y"), pictures[0, 0].astype(np.int32))
    check(values(f"{path}:x", 3, axes="NCYX", channels=(2, 0)), last(pictures[3, [2, 0]]))
    check(values(f"{path}:x", 1, axes="NCYX", slices="0:1:3"), last(pictures[2]))
    several = hdf5.open_stack(Counted(str(path)), Layout(axes="NCYX"), "x")
    several.picture(0)
    assert bytes_of(lambda: several.picture(3)) < path.stat().st_size / 2
    with h5py.File(path, "w") as file:
        file["only"], file["ids"] = last(pictures[0]), np.arange(5)
    check(values(path), last(pictures[0]))
    path.write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        opened(path)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path, version):
    path, pictures = tmp_path / "a.zarr", draw((5, 3, 20, 30))
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.create_array("x", data=pictures, chunks=(1, 3, 20, 30))
    group.create_array("b/y", data=pictures[0, 0], chunks=(10, 10))
    with pytest.raises(DataError, match=r"several arrays.*x \[5, 3, 20, 30\]"):
        opened(path)
    with pytest.raises(DataError, match="has no array 'z'"):
        opened(f"{path}:z")
    check(values(f"{path}:x", 3, axes="NCYX", channels=(2, 0)), last(pictures[3, [2, 0]]))
    check(values(f"{path}:b/y"), pictures[0, 0])
    check(values(f"{path}:b"), pictures[0, 0])
    for chunk in path.rglob("*"):  # the other pictures of x are not read
        parts = chunk.relative_to(path).parts
        if chunk.is_file() and parts[0] == "x" and parts[-1] not in ("zarr.json", ".zarray"):
            index = chunk.name.split(".")[0] if version == 2 else parts[2]
            if index != "3" and not chunk.name.startswith("."):
                chunk.write_bytes(b"damaged")
    check(values(f"{path}:x", 3, axes="NCYX"), last(pictures[3]))
    with pytest.raises(Exception, match="."):
        values(f"{path}:x", 2, axes="NCYX")
    zarr.create_array(tmp_path / "one.zarr", data=pictures[0, 0], zarr_format=version)
    check(values(tmp_path / "one.zarr"), pictures[0, 0])
    store = zarr.storage.ZipStore(tmp_path / "a.zarr.zip", mode="w")
    zarr.create_array(store, data=pictures[0, 1], zarr_format=version)
    store.close()
    check(values(tmp_path / "a.zarr.zip"), pictures[0, 1])


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr(tmp_path, version):
    path, pictures = tmp_path / "a.ome.zarr", draw((1, 5, 3, 20, 30))
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.create_array("0", data=pictures, chunks=(1, 1, 1, 20, 30))
    group.create_array("1", data=pictures[..., ::2, ::2])
    metadata = {
        "multiscales": [
            {
                "axes": [{"name": name} for name in "tczyx"],
                "datasets": [{"path": "0"}, {"path": "1"}],
            }
        ],
        "omero": {"channels": [{"label": name} for name in "abcde"]},
    }
    group.attrs.update(metadata if version == 2 else {"ome": metadata})
    several = opened(path, channels=(4, 1))
    assert len(several) == 3 and several.channel_names == ("e", "b")
    check(several.picture(2).values, last(pictures[0, [4, 1], 2]))


# NumPy


def test_npy(tmp_path):
    path, pictures = tmp_path / "a.npy", draw((5, 3, 20, 30), np.int16, -1000, 3000)
    np.save(path, pictures)
    with pytest.raises(DataError, match="--config.data.axes"):
        opened(path)
    check(values(path, 3, axes="NCYX", channels=(1,)), pictures[3, 1])
    np.save(path, np.moveaxis(pictures, 1, -1))
    assert len(opened(path)) == 5
    check(values(path, 2), last(pictures[2]))
    scores = np.asfortranarray(rng.normal(size=(20, 30)))
    np.save(path, scores)
    check(values(path), scores)
    np.save(path, pictures[:, 0].astype(">i4"))
    check(values(path, 1, slices="0::"), pictures[1, 0].astype(np.int32))
    check(values(path, 1, slices="1::"), pictures[:, 0, 1].astype(np.int32))
    for bad in (np.array([{}, {}]), np.zeros((4, 4), complex), np.array([["a"]])):
        np.save(path, bad, allow_pickle=True)
        with pytest.raises(DataError, match="save"):
            opened(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="no array of NumPy"):
        opened(path)


def test_npy_is_mapped(tmp_path):
    path = tmp_path / "big.npy"  # 20 GB, of which nothing is on disk
    big = np.lib.format.open_memmap(path, "w+", np.uint16, (10_000, 1000, 1000))
    big[9_000] = 7
    del big
    start = time.perf_counter()
    assert values(path, 9_000, axes="NYX").min() == 7
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    path, pictures = tmp_path / "a.npz", draw((5, 20, 30, 3))
    save(path, x=pictures, y=np.asfortranarray(pictures[0, ..., 0]))
    with pytest.raises(DataError, match=r"x \[5, 20, 30, 3\], y \[20, 30\]: give one"):
        opened(path)
    check(values(f"{path}:x", 3), pictures[3])
    check(values(f"{path}:y"), pictures[0, ..., 0])
    save(path, pictures=pictures, names=np.array(["a", "b"]))
    check(values(path, 4, channels=(2,)), pictures[4, ..., 2])
    save(path, objects=np.array([{}, {}]))
    with pytest.raises(DataError, match="Python objects"):
        opened(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="no archive of NumPy"):
        opened(path)


# ZIP archives


def test_pictures_in_an_archive(tmp_path):
    grey, pages = draw((7, 9)), draw((5, 32, 40))
    Image.fromarray(grey).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", pages, metadata={"axes": "ZYX"}, compression="zlib")
    write_dicom(tmp_path / "IM1", grey)
    np.save(tmp_path / "c.npy", grey)
    np.savez(tmp_path / "d.npz", x=grey, y=pages)
    nibabel.Nifti1Image(pages.astype(np.int16), np.eye(4)).to_filename(tmp_path / "e.nii.gz")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x"] = grey
    names = ("a.png", "b.tif", "IM1", "c.npy", "d.npz", "e.nii.gz", "f.h5")
    path = tmp_path / "cases.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(tmp_path / name, f"inner/{name}")
        for name in ("__MACOSX/inner/._a.png", "inner/.hidden.png", "inner/notes.txt"):
            archive.writestr(name, "no picture")
        archive.mkdir("empty")
    assert files.is_archive(path) and not files.is_picture(path)
    assert files.pictures_in(path) == [f"{path}/inner/{name}" for name in names]
    assert len(zip_archive.members(str(path))) == len(names) + 1
    assert zip_archive.open_member(f"{path}/inner/notes.txt").read() == b"no picture"
    for name in ("a.png", "IM1", "c.npy", "d.npz:x", "f.h5", "f.h5:x"):
        check(values(f"{path}/inner/{name}"), grey)
    check(values(f"{path}/inner/b.tif", 3), pages[3])
    check(values(f"{path}/inner/e.nii.gz", 3), pages.astype(np.int16)[:, :, 3])
    with pytest.raises(DataError, match="has no member 'inner/z.png'"):
        values(f"{path}/inner/z.png")
    with pytest.raises(DataError, match="is an archive: give it where a folder is expected"):
        opened(path)


def test_archives_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"0123456789" * 100)
        archive.writestr("b.zarr.zip", b"")
    data = path.read_bytes()
    with pytest.raises(DataError, match="a Zarr in a ZIP archive, which is not read: unpack it"):
        opened(f"{path}/b.zarr.zip")
    (tmp_path / "damaged.zip").write_bytes(data.replace(b"0123456789" * 50, b"x" * 500))
    with pytest.raises(DataError, match=r"damaged.zip/a.png is damaged in its archive"):
        values(f"{tmp_path}/damaged.zip/a.png")
    (tmp_path / "cut.zip").write_bytes(data[:100])
    with pytest.raises(DataError, match="cut.zip cannot be read as a ZIP archive"):
        files.pictures_in(tmp_path / "cut.zip")
    encrypted = bytearray(data)
    encrypted[6] |= 1
    central = data.index(b"PK\1\2")
    encrypted[central + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(encrypted)
    for read in (files.pictures_in, lambda path: values(f"{path}/a.png")):
        with pytest.raises(DataError, match="a.png is encrypted: unpack"):
            read(tmp_path / "secret.zip")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("inner.zip", data)
    with pytest.raises(DataError, match="holds another ZIP archive, inner.zip: unpack"):
        files.pictures_in(tmp_path / "outer.zip")
    with pytest.raises(DataError, match="in an archive in an archive"):
        values(tmp_path / "outer.zip" / "inner.zip" / "a.png")


# Any file


def test_suffixes_and_names(tmp_path):
    several = ".tif .tiff .dcm .nii .nii.gz .h5 .hdf5 .zarr .zarr.zip .npy .npz .png .jpg .bmp"
    assert set(several.split()) <= files.SUFFIXES
    for name in ("a.ome.TIF", "a.nii.gz", "a.h5:x/y", "a.ome.zarr", "a.zarr.zip", "A.PNG"):
        assert files.is_picture(name), name
    assert not any(map(files.is_picture, ("a.gz", "a.txt", "a.mpg", "a.zip", "a.pdf")))
    for name in ("nothing.h5:x", "nothing.tif"):
        with pytest.raises(DataError, match="no such file"):
            opened(tmp_path / name)
    with pytest.raises(DataError, match="of no format that is read"):
        opened(tmp_path / "a.txt")
    grey = draw((7, 9))
    with h5py.File(tmp_path / "a:b.h5", "w") as file:
        file["x"] = grey
    check(values(tmp_path / "a:b.h5"), grey)
    check(values(tmp_path / "a:b.h5:x"), grey)
    Image.fromarray(grey).save(tmp_path / "c.h5:d.png")
    check(values(tmp_path / "c.h5:d.png"), grey)


def test_a_folder_of_pictures_is_listed_unopened():
    names = [f"/nowhere/img{k}.png" for k in range(50_000)]
    start = time.perf_counter()
    assert all(map(files.is_picture, names))
    assert sum(len(files.open_stack(name, Layout())) for name in names) == 50_000
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize(
    "package, extra, name",
    [
        ("tifffile", "tiff", "a.tif"),
        ("pydicom", "dicom", "a.dcm"),
        ("nibabel", "nifti", "a.nii"),
        ("h5py", "hdf5", "a.h5"),
        ("zarr", "zarr", "a.zarr"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, absent, package, extra, name):
    (tmp_path / name).write_bytes(b"")
    absent(package)
    with pytest.raises(DataError, match=rf"{package}.*pip install 'pdae_jax\[{extra}\]'") as error:
        opened(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=package):
        require(package, extra)


def test_importing_formats_is_light():
    code = "import sys, pdae_jax.formats.files; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", "import json; " + code], capture_output=True, text=True, check=True
    )
    heavy = {"tifffile", "imagecodecs", "pydicom", "nibabel", "h5py", "zarr", "jax"}
    assert not heavy & set(json.loads(done.stdout))


# Arrays


def test_axes_where_the_shape_leaves_no_doubt():
    assert stack.axes_of("a", (20, 30)) == "YX"
    assert stack.axes_of("a", (20, 30, 3)) == "YXC"
    assert stack.axes_of("a", (5, 20, 30, 1)) == "NYXC"
    for shape in ((5,), (3, 20, 30), (20, 30, 5), (5, 3, 20, 30), (2, 3, 4, 20, 30)):
        with pytest.raises(DataError, match="--config.data.axes, such as"):
            stack.axes_of("a", shape)


def test_axes_and_slices_that_do_not_fit():
    for axes in ("YX", "YYX", "CZX", "Y1X"):
        with pytest.raises(DataError, match="do not fit an array of shape"):
            ArrayStack("a", (3, 20, 30), axes, list)
    with pytest.raises(DataError, match="no axis of several pictures"):
        ArrayStack("a", (3, 20, 30), "CYX", list, Layout(slices="0::"))
    with pytest.raises(DataError, match="holds no picture"):
        ArrayStack("a", (0, 20, 30), "NYX", list)


def test_a_picture_stands_alone(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 20, 30)))
    picture = values(tmp_path / "a.npy", axes="NYX")
    picture[:] = 1  # neither read-only, nor the file
    assert not np.load(tmp_path / "a.npy").any()


def test_what_is_kept_is_bounded(tmp_path):
    kept, made = stack.Kept(100, len), []
    for name in "abc":
        (tmp_path / name).write_text(name)

    def get(name):
        return kept.get(File(str(tmp_path / name)), lambda: made.append(name) or bytes(50))

    for name in ("a", "b", "a", "c", "a", "b"):
        get(name)
    assert made == ["a", "b", "c", "b"]
    (tmp_path / "b").write_text("changed")
    get("b")
    assert made[-1] == "b" and len(made) == 5


def test_a_volume_in_an_archive_keeps_its_bytes_bounded(tmp_path):
    volume = draw((6, 7, 8), np.int16)
    data = gzip.compress(nibabel.Nifti1Image(volume, np.eye(4)).to_bytes())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.nii.gz", data)
    several = opened(tmp_path / "a.zip" / "a.nii.gz")
    before = len(nifti._HEADERS._values)
    check(several.picture(2).values, volume[:, :, 2])
    assert len(nifti._HEADERS._values) == before


def test_many_files_are_read_by_many_threads(tmp_path):
    """More files of several pages than stay open, by more threads than there are."""
    there = np.arange(24 * 3 * 4 * 4, dtype=np.uint16).reshape(24, 3, 4, 4)
    for k, pages in enumerate(there):
        how = {"photometric": "minisblack", "metadata": {"axes": "CYX"}}
        tifffile.imwrite(tmp_path / f"{k}.ome.tif", pages, **how)
    stacks = [files.open_stack(str(tmp_path / f"{k}.ome.tif")) for k in range(24)]
    turns = np.random.default_rng(0).integers(0, 24, 2000).tolist()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda k: stacks[k].picture(0).values, turns))
    assert all(np.array_equal(a, there[k].transpose(1, 2, 0)) for a, k in zip(read, turns))
