"""A command at work: the model, the pictures and the folder that it writes; and its result."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from etils import epy

from pdae_jax.commands.options import OF_IMAGES, Decoding, Images, Options, protocol_by
from pdae_jax.data import range_search
from pdae_jax.data.dataset import KINDS, Data
from pdae_jax.data.pipeline import first_pictures
from pdae_jax.data.source import Source
from pdae_jax.images import channel_colours, visible
from pdae_jax.networks.architecture import group_of
from pdae_jax.pages.page import Part, Pictures, Rendered, Section, Table
from pdae_jax.protocol import WAYS
from pdae_jax.runtime.choices import nearest
from pdae_jax.runtime.paths import local
from pdae_jax.value_range import ValueRange

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax import latent
    from pdae_jax import model as model_lib
    from pdae_jax.pages import plot
    from pdae_jax.runtime import processes
    from pdae_jax.tasks import encoding, familiarity, reconstruction, verdict
    from pdae_jax.workdir import code_table, output, workdir

O = TypeVar("O", bound=Options, covariant=True)  # noqa: E741

BATCH_SIZE = 64
LOOKED_AT, DECODED = 64, 16  # pictures, of what they are like
VERSIONS = ("pdae_jax", "jax", "umap-learn")  # that a page depends on


@functools.cache
def say_once(line: str) -> None:
    """Prints a line on stderr, of several processes once, and never again."""
    processes.say(line)


def page_key(workdir: "workdir.Workdir", options: Options, run_data: Data | None) -> dict[str, Any]:
    """What a page depends on: the options, the checkpoints, the pictures and the other files that
    it names, and what is installed."""
    given = given_data(options, run_data)
    data = [one for one in (run_data, given) if one]
    contents = {name: of for name, of in workdir.contents.items() if name != "statistics"}
    key = {
        "options": dataclasses.asdict(options),
        "data": [dataclasses.asdict(one) for one in data],
        "files": [fingerprint_of(one) for one in data],
        "named": {
            field.name: states_of(getattr(options, field.name))
            for field in dataclasses.fields(options)
            if field.metadata["path"] and getattr(options, field.name)
        },
        "checkpoints": contents,  # statistics are computed on the way, where they are missing
        "versions": {
            package: importlib.metadata.version(package)
            for package in VERSIONS
            if importlib.util.find_spec(package.partition("-")[0])
        },
    }
    return json.loads(json.dumps(key))


def fingerprint_of(data: Data) -> str:
    """What tells the files of a data set from others; "" where they are not here any more."""
    try:
        return data.fingerprint()
    except (ValueError, OSError):
        return ""


def states_of(path: str) -> list[list[Any]]:
    """Names, sizes and times of a file, or of all files in a folder."""
    root = local(path)
    files = sorted(one for one in root.rglob("*") if one.is_file()) if root.is_dir() else [root]
    return [[str(one), one.stat().st_size, one.stat().st_mtime_ns] for one in files]


def given_data(options: Options, run_data: Data | None) -> Data | None:
    """The pictures that the options name; None where they name none."""
    if not (isinstance(options, Images) and options.images):
        return None
    kind = options.images.partition(":")[0]
    name = options.images if kind in KINDS else f"folder:{options.images}"
    of_run = vars(run_data) if run_data else {}
    how: dict[str, Any] = {key: getattr(options, key) or of_run.get(key, "") for key in OF_IMAGES}
    how["range"] = options.range
    labels, group = getattr(options, "labels", ""), getattr(options, "group", "")
    if kind in ("lmdb", "tfds"):  # which have no such settings
        how = {"range": options.range}
    else:  # all of them are encoded, and none held out
        how["test_fraction"] = 0.0
    return Data(name, attributes=labels, group=group, **how)


class Context(Generic[O]):
    """A command at work. The model is read at once, everything else when it is first asked for.

    workdir: the model's directory. output: where the command writes. data: the run's pictures,
    where not those that it was trained on. line: the command line, for the page. outer: the command
    that this one is a part of, whose model it shares.
    """

    def __init__(
        self,
        workdir: "workdir.Workdir",
        options: O,
        output: "output.Output",
        data: Data | None = None,
        line: str = "",
        outer: "Context[Any] | None" = None,
    ):
        self.workdir, self.options, self.output, self.line = workdir, options, output, line
        self.outer = outer
        self.run_data = data or next(reversed(workdir.trained_on), None)
        T = workdir.architecture.T
        options.check(T)
        self.protocol = protocol_by(options).at_most(T)
        self.model = (
            outer.model
            if outer
            else model_lib.load(
                workdir,
                precision=getattr(options, "precision", "float32"),
                batch_size=BATCH_SIZE,
                protocol=self.protocol,
            )
        )
        if not outer:
            self.model.value_range = self._value_range()

    def _value_range(self) -> ValueRange | None:
        """Of the pictures: as asked for, else the model's; where neither is known, as found."""
        data, known = self.given, self.model.value_range
        if data is None or known is not None and not data.range:
            return known

        def search() -> str:
            channels = self.model.arch.image_shape[2]
            found, words = range_search.find(data.open("all"), data.range, channels)
            return json.dumps([dataclasses.asdict(found), words])

        found, words = json.loads(processes.of_first(search))
        if not ValueRange(**found).eight_bit:
            say_once(f"{words}" + (f"; the model's own are {known}" if known else ""))
        return ValueRange(**found)

    def within(self, command: str, options: Options, folder: str = "") -> "Context[Any]":
        """The same model at another command's work, in a folder inside this one's."""
        output = self.output.within(command, folder)
        return Context(self.workdir, options, output, self.run_data, outer=self)

    def n(self, default: int) -> int:
        """The number of pictures asked for."""
        return getattr(self.options, "n", 0) or default

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """While the block runs, the shared model samples by this command's protocol."""
        before, self.model.protocol = self.model.protocol, self.protocol
        try:
            yield
        finally:
            self.model.protocol = before

    # Pictures.

    @property
    def given(self) -> Data | None:
        """The pictures that the options name; None where they name none."""
        return given_data(self.options, self.run_data)

    def data(self) -> Data:
        """The given pictures, or the run's."""
        data = self.given or self.run_data
        if data is None:
            raise ValueError(
                f"{self.workdir} was imported, and knows no pictures: give some with --images=PATH "
                f"(a picture, a folder or a glob)"
            )
        return data

    @property
    def split(self) -> str:
        """All of the given pictures; of the run's the held-out ones."""
        return "all" if self.given else "test"

    def source(self) -> Source:
        """The given pictures, or the run's held-out ones."""
        source = self.data().open(self.split, self.model.value_range)
        for line in source.words:
            say_once(line)
        return source

    def pictures(self, n: int = 8) -> np.ndarray:
        """The first pictures, as many as the options say or n; [n, H, W, C], uint8 or float."""
        shape, broken = self.model.arch.image_shape, self.data().max_broken
        every = getattr(self.options, "every", 1)
        return first_pictures(self.source(), shape, self.n(n), broken, every)

    # Codes.

    def codes(self, split: str) -> "code_table.Codes":
        """Normalised z of a split of the run's pictures, without the broken ones."""
        if self.run_data is None:
            raise ValueError(
                f"{self.workdir} was imported, and has no labelled pictures: give --images=PATH "
                f"--labels=FILE.csv"
            )
        return self.normalised(self.encode_split(self.run_data, split))

    def encode_split(self, data: Data, split: str) -> "code_table.Codes":
        """z of a split, encoded once into the workdir for all commands, so in full precision."""
        table, key = self.workdir.code_table(split), self.workdir.cache_key(data)
        return encoding.encode(self.precise, data, split, table, key, batch_size=BATCH_SIZE)

    @functools.cached_property
    def precise(self) -> "model_lib.Model":
        """The model in full precision, whatever this command's is."""
        if self.outer:
            return self.outer.precise
        if getattr(self.options, "precision", "float32") == "float32":
            return self.model
        precise = model_lib.load(self.workdir, batch_size=BATCH_SIZE)
        precise.value_range = self.model.value_range
        return precise

    def normalised(self, codes: "code_table.Codes") -> "code_table.Codes":
        codes = codes.without_broken()
        return codes._replace(z=np.asarray(latent.normalise(self.statistics(), codes.z)))

    def statistics(self) -> dict[str, Any]:
        """Mean and standard deviation of z over the training pictures, computed where missing."""
        trained_on = self.workdir.trained_on
        if trained_on and not self.workdir.statistics_are_current:
            codes = self.encode_split(trained_on[-1], "train")
            familiarity.keep_statistics(self.workdir, codes, trained_on[-1])
            self.model.params |= self.workdir.weights(["statistics"])
        self.model.need("statistics")
        return self.model.params["statistics"]

    def unlike_the_training(self) -> str:
        """A warning where given pictures are unlike those that the model was trained on, else "".

        By at most `LOOKED_AT` of them, evenly; where the command decodes, some of them are decoded
        too, and of the held-out pictures, where they are still there. Nothing else is computed for
        it: of a run whose training codes were never made, nothing is known.
        """
        usual = self.usual_distances() if self.given else None
        if usual is None:
            return ""
        images = self.spread(self.source(), LOOKED_AT)
        z = self.model.encode(images)
        found = familiarity.measure(self.model.params["statistics"], z, usual)
        if isinstance(self.options, Decoding):
            try:
                data = self.workdir.trained_on[-1]
                held_out = self.spread(data.open("test", self.model.value_range), DECODED)
            except (ValueError, OSError):  # the pictures of the training are elsewhere now
                return familiarity.warning(found)
            every = max(1, len(images) // DECODED)
            found = found._replace(
                error=self._error_alone(images[::every][:DECODED]),
                held_out=self._error_alone(held_out),
            )
        return familiarity.warning(found)

    def usual_distances(self) -> tuple[float, float] | None:
        """Of the training codes, see `familiarity`; None where these are not there to tell."""
        trained_on = self.workdir.trained_on
        if not trained_on or not self.workdir.statistics_are_current:
            return None
        if known := self.workdir.usual_distances:
            return known
        table = self.workdir.code_table("train")
        try:
            key = self.workdir.cache_key(trained_on[-1])
        except (ValueError, OSError):  # the pictures of the training are elsewhere now
            return None
        if not table.is_current(key):
            return None
        codes = table.read().without_broken()
        return familiarity.usual(self.model.params["statistics"], codes.z)

    def spread(self, source: Source, most: int) -> np.ndarray:
        """At most so many pictures of a source, evenly, without the broken ones."""
        every = max(1, len(source) // most)
        return first_pictures(source, self.model.arch.image_shape, most, 1.0, every)

    def _error_alone(self, images: np.ndarray) -> float:
        """The mean squared error from z alone, of pixels in [0, 1]."""
        decoded = self.model.decode(self.model.encode(images), temperature=0.0)
        return reconstruction.mean_squared_error(images, decoded)

    # Attributes.

    def attributes(self) -> tuple[str, ...]:
        """The names of the classifier's attributes."""
        self.model.need("classifier")
        return self.workdir.attributes

    def attribute(self, name: str) -> int:
        """The place of an attribute in the classifier; ValueError with the nearest names."""
        names = self.attributes()
        return names.index(nearest(name, names, "attribute"))

    # Cache keys.

    @property
    def sampling(self) -> dict[str, Any]:
        """The key of pictures that are sampled: the whole protocol, and students that it names."""
        protocol = self.model.protocol
        networks = {getattr(protocol, way).network for way in WAYS}
        contents = self.workdir.contents
        students = {name: contents.get(group_of(name).objective) for name in sorted(networks)}
        return {"protocol": dataclasses.asdict(protocol), "students": students}

    def cache_key(self, data: Data | None = None, **more: Any) -> dict[str, Any]:
        """The key of work on pictures: the networks, `data` (None: the command's), and more."""
        key = self.workdir.cache_key(data or self.data())
        return key | {"precision": getattr(self.options, "precision", "float32")} | more

    def model_cache_key(self, **more: Any) -> dict[str, Any]:
        """The key of work without pictures: every checkpoint of the model, and more."""
        key = {"checkpoints": self.workdir.contents}
        return key | {"precision": getattr(self.options, "precision", "float32")} | more


@dataclasses.dataclass
class Result:
    """sections: of the page. numbers: of the JSON file. grids: name -> rows of pictures.
    headline: the few numbers at the head of the page, and in the command's last line; without any
    the page shows all plain numbers. verdict: whether the model is trained well, and why; warning:
    that the pictures are unlike the training's, None where the command did not look: both there
    too. files: figures that were saved.
    title, lead: the page's, where not the command's name and line."""

    sections: Sequence[Section | Rendered]
    numbers: dict[str, Any]
    grids: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    headline: dict[str, float] = dataclasses.field(default_factory=dict)
    title: str = ""
    lead: str = ""
    files: list[str] = dataclasses.field(default_factory=list)
    verdict: "verdict.Verdict | None" = None
    warning: str | None = None


def write_files(output: "output.Output", result: Result, **record: Any) -> None:
    """Writes a result's pictures and numbers."""
    for stem, rows in result.grids.items():
        output.save_grid(stem, rows)
    output.write_numbers(result.numbers, **record)


def save_figures(
    output: "output.Output", sections: Sequence[Section | Rendered], kinds: Sequence[str]
) -> list[str]:
    """Saves the figures of sections, in each of the kinds; the names of their files."""
    return [
        output.save_figure(stem, kind, draw)
        for section in (sections if kinds else ())
        if isinstance(section, Section)
        for stem, draw in plot.figures(section)
        for kind in kinds
    ]


# Figures that several commands show.


def picture_rows(
    context: Context[Any],
    rows: Sequence[tuple[str, np.ndarray]],
    caption: str,
    columns: Sequence[str] = (),
) -> Pictures:
    """Labelled rows of pictures; a composite with its legend where they are no grey or colour."""
    legend = []
    if is_composite(context):
        colours, names = channel_colours(context.model.arch.image_shape[2]), channel_names(context)
        legend = [(f"{name}: {hue}", colours[hue]) for name, hue in zip(names, colours)]
    shown = [(label, visible(row)) for label, row in rows]
    return Pictures(shown, columns=columns, caption=caption, legend=legend)


def is_composite(context: Context[Any]) -> bool:
    """Whether colours stand for channels: other numbers than 1 and 3, or 3 that have names."""
    channels, value_range = context.model.arch.image_shape[2], context.model.value_range
    named = value_range is not None and len(value_range.channels) == 3
    return channels not in (1, 3) or channels == 3 and named


def channel_names(context: Context[Any]) -> list[str]:
    """The names of the channels, as the files have them, or their numbers."""
    channels = context.model.arch.image_shape[2]
    known = context.model.value_range.channels if context.model.value_range else ()
    return list(known) if len(known) == channels else [f"channel {k}" for k in range(channels)]


def single_channels(
    context: Context[Any], rows: Sequence[tuple[str, np.ndarray]], n: int = 4
) -> list[Part]:
    """Each channel of the first n pictures as grey; nothing where they are grey or colour."""
    if not is_composite(context):
        return []
    return [
        Pictures(
            [(label, visible(row[:n, ..., k : k + 1])) for label, row in rows],
            caption=f"{name} alone, black to white over its range.",
        )
        for k, name in enumerate(channel_names(context))
    ]


def score_table(measured: dict[str, dict[str, float]], caption: str) -> Table:
    """Scores, {decoded from: {metric: value}}."""
    names = list(next(iter(measured.values())))
    rows = [[label, *(found.get(name) for name in names)] for label, found in measured.items()]
    return Table(["decoded from", *(name.upper() for name in names)], rows, caption=caption)


def in_lines(images: np.ndarray, width: int = 8) -> list[np.ndarray]:
    """Pictures in rows of `width`."""
    return [images[k : k + width] for k in range(0, len(images), width)]
