"""`Data`, the settings of a data set, and `open_source`, which opens one by its name."""

import difflib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pdae_jax.data.augmentation import Augmentation
from pdae_jax.data.builtin import Digits, Emoji, Twemoji
from pdae_jax.data.lmdb_source import LMDB
from pdae_jax.data.picture_files import Folder, Manifest
from pdae_jax.data.source import Source
from pdae_jax.data.tfds_source import TFDS
from pdae_jax.formats.errors import DataError
from pdae_jax.formats.stack import Layout
from pdae_jax.runtime.fields import REQUIRED, described
from pdae_jax.runtime.paths import local
from pdae_jax.value_range import EIGHT_BIT, FORMS, ValueRange, parse

BUILT_IN: dict[str, Callable[..., Source]] = {
    "digits": Digits,
    "emoji": Emoji,
    "twemoji": Twemoji,
}
KINDS: dict[str, Callable[..., Source]] = {
    "folder": Folder,
    "table": Manifest,
    "lmdb": LMDB,
    "tfds": TFDS,
}
NAMES = "digits, emoji, twemoji, folder:PATH, table:FILE, lmdb:PATH or tfds:NAME"
# Options that some kinds of data alone have, for errors.
READERS = {
    "attributes": ("folder", "lmdb"),
    "data_dir": ("tfds",),
    "group": ("folder", "table"),
    "layout": ("folder", "table"),
}


@dataclass(frozen=True)
class Data:
    """The settings of a data set: which pictures, and how they are read (see `open_source`)."""

    name: str = described(REQUIRED, NAMES)
    flip: bool = described(True, "random horizontal flips")
    zoom: float = described(0.0, "random enlargement, up to this share more or less")
    shift: float = described(0.0, "random shift, up to this share of the size")
    rotate: float = described(0.0, "random rotation, up to so many degrees either way")
    hue: float = described(0.0, "random turn of RGB's hues, up to so many degrees either way")
    workers: int = described(0, "loader processes; 0: threads")
    seed: int = described(0, "random seed of the held-out share and of the order")
    test_fraction: float = described(
        -1.0, "held-out share where the data have no split; below 0: 0.1, or the source's own"
    )
    attributes: str = described("", "table of labels of a folder or LMDB (docs/tables.md)")
    group: str = described(
        "", "column of the table, parent (folder) or file: what is never on both sides of the split"
    )
    range: str = described(
        "", f"values that are black and white: {FORMS}; 8-bit pictures need none"
    )
    axes: str = described("", "axes of arrays and pages whose files tell none, such as CYX")
    channels: tuple[int, ...] = described((), "channels taken, in this order; none: all")
    slices: str = described("", "slices of volumes, AXIS:FROM:TO; none: all along the last axis")
    data_dir: str = described("", "folder in which TFDS data were prepared")
    max_broken: float = described(0.1, "share of unreadable pictures that ends a run")

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))  # JSON has lists
        parse(self.range)
        _ = self.augmentation  # raises of what is out of range

    @property
    def pictures(self) -> dict[str, Any]:
        """The settings that decide which pictures there are, however they are read."""
        always = ("name", "seed", "test_fraction", "data_dir")
        # Records of versions that had no such settings stay true.
        where_set = {name: getattr(self, name) for name in ("group", "axes", "channels", "slices")}
        found = {name: getattr(self, name) for name in always}
        return found | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in where_set.items()
            if value
        }

    def fingerprint(self) -> str:
        """A hash of the paths, sizes and times of the files: another where a person changed any."""
        found = hashlib.sha256()
        for file in (*self.open("all").read_from(), self.attributes):
            path = os.path.abspath(os.path.expanduser(file))
            found.update(path.encode(errors="surrogateescape") + b"\0")
            if file and os.path.exists(path):
                state = os.stat(path)
                found.update(f"{state.st_size} {state.st_mtime_ns} ".encode())
        return found.hexdigest()[:16]

    def open(self, split: str, value_range: ValueRange | None = None) -> Source:
        """Opens one split, "train", "test" or "all"; DataError where it cannot be read.

        value_range: of the pictures' values; None for 8-bit pictures.
        """
        source = open_source(
            self.name,
            split,
            seed=self.seed,
            attributes=self.attributes or None,
            test_fraction=None if self.test_fraction < 0 else self.test_fraction,
            data_dir=self.data_dir or None,
            group=self.group or None,
            layout=self.layout,
        )
        source.value_range = value_range or EIGHT_BIT
        source.check_channel_names(source.value_range)
        return source

    @property
    def augmentation(self) -> Augmentation:
        """The random changes of training pictures."""
        return Augmentation(self.flip, self.zoom, self.shift, self.rotate, self.hue)

    @property
    def layout(self) -> Layout:
        """How the arrays of the files are meant."""
        return Layout(self.axes, self.channels, self.slices)


def open_source(
    name: str,
    split: str = "train",
    *,
    seed: int = 0,
    attributes: str | os.PathLike[str] | None = None,
    test_fraction: float | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    group: str | None = None,
    layout: Layout | None = None,
) -> Source:
    """Opens a source of pictures by name.

    name: "digits", "emoji", "twemoji", "folder:PATH" (or the path of an existing folder),
        "table:FILE", "lmdb:PATH" or "tfds:NAME".
    split: "train", "test" or "all" (and "valid" where the data set has one).
    seed, test_fraction: of the held-out share, where the data set has no split of its own; None is
        0.2 for digits, 0.1 for emoji, twemoji and folders, 0.01 for LMDB and TFDS. Use the same for
        train and test.
    attributes: path of a table of labels (folder and LMDB).
    group, layout: of `Folder` and `Manifest`.
    data_dir: where TFDS data was prepared (tfds).

    Raises DataError (a ValueError) for an unknown name, with the nearest valid ones, and for data
    that is missing, empty or cannot be read.
    """
    kind, _, rest = str(name).partition(":")
    arguments: tuple[str, ...]
    if kind in KINDS and rest:
        opener, arguments = KINDS[kind], (rest,)
    elif name in BUILT_IN:
        opener, arguments = BUILT_IN[name], ()
    elif os.path.isdir(os.path.expanduser(name)):
        kind, opener, arguments = "folder", KINDS["folder"], (name,)
    else:
        valid = [*BUILT_IN, *(f"{kind}:" for kind in KINDS)]
        near = difflib.get_close_matches(str(name), valid, n=2) or valid
        local(name)  # raises of a bucket's address
        raise DataError(
            f"no data called {str(name)!r} and no such folder: did you mean "
            f"{' or '.join(near)}? (valid: {NAMES})"
        )
    options: dict[str, Any] = {
        "attributes": attributes,
        "test_fraction": test_fraction,
        "data_dir": data_dir,
        "group": group,
        "layout": layout if layout != Layout() else None,
    }
    options = {key: value for key, value in options.items() if value is not None}
    for key, kinds in READERS.items():
        if key in options and kind not in kinds:
            value = options[key]
            if key == "layout":
                key = next(n for n in ("axes", "channels", "slices") if getattr(value, n))
                value = getattr(options["layout"], key)
            raise DataError(
                f"{key} = {value!r} is for {' and '.join(f'{one}:' for one in kinds)} names alone, "
                f"and {name} does not read it: leave it out"
            )
    return opener(*arguments, split, seed=seed, **options)
