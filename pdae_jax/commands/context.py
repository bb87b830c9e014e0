"""How a mode of the command works: what it is asked, what it reads, and what it gives."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pdae_jax import latent
from pdae_jax.images import grid
from pdae_jax.metrics.measure import Metrics
from pdae_jax.model import Model, load
from pdae_jax.networks.groups import DTYPES
from pdae_jax.pages.page import Section
from pdae_jax.runtime.choices import nearest
from pdae_jax.tasks import manipulation as manipulate
from pdae_jax.training.trainer import Data, first_pictures, trained_data
from pdae_jax.workdir import checkpoints as checkpoint
from pdae_jax.workdir import code_table as codes_lib


@dataclasses.dataclass(frozen=True)
class Options:
    """How a mode works; the command's flags of the same names.

    precision: of the networks, "float32" or "bfloat16".
    images: a picture, a folder or a glob, or several with commas between; "" for the run's own
    held-out pictures. labels: a CSV of attributes of those images. n: pictures, or how many to
    generate; 0: as many as suit the mode. steps, invert_steps, latent_steps: of DDIM. ddpm:
    whether to decode by DDPM too, in T steps. times: which t to show; () for five. frames: of an
    animation. attribute, keep: the one to change and those to hold still, by name. direction: a
    .npy of [d] in normalised z instead. strengths: of edits. positives, negatives, unlabelled:
    few-shot labels. stop: the share of generation's last steps without z. clamp, clip: the
    original's oddities, see `Model.generate_codes`; uniform: of the gap, another. save: generated
    pictures as "npz" or a "folder" of PNGs. metrics: directory of the weights of LPIPS and FID.
    reference: ADM's .npz. scored: pictures that the report's numbers are means over.
    """

    precision: str = "float32"
    images: str = ""
    labels: str = ""
    n: int = 0
    steps: int = 100
    invert_steps: int = 100
    latent_steps: int = 100
    seed: int = 0
    ddpm: bool = True
    times: tuple[int, ...] = ()
    frames: int = 16
    attribute: str = ""
    keep: tuple[str, ...] = ()
    direction: str = ""
    strengths: tuple[float, ...] = manipulate.STRENGTHS
    positives: int = 50
    negatives: int = 50
    unlabelled: int = 0
    stop: float = 0.3
    clamp: bool = True
    clip: bool = False
    uniform: bool = False
    save: str = "npz"
    metrics: str = ""
    reference: str = ""
    scored: int = 180

    def __post_init__(self):
        for name, least in {
            "n": 0,
            "steps": 1,
            "invert_steps": 1,
            "latent_steps": 1,
            "frames": 2,
            "positives": 0,
            "negatives": 0,
            "unlabelled": 0,
            "scored": 1,
        }.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.stop <= 1:
            raise ValueError(f"stop must be from 0 to 1, got {self.stop}")
        if self.labels and not self.images:
            raise ValueError(f"labels = {self.labels} are of --images=PATH, which is not given")
        nearest(self.save, ("npz", "folder"), "way to save")
        nearest(self.precision, DTYPES, "precision")

    def check(self, arch) -> None:
        """Raises ValueError where a model of `arch` has fewer times than are asked for."""
        for name in ("steps", "invert_steps"):
            if getattr(self, name) > arch.T:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is more than the model's T = {arch.T}"
                )
        for t in self.times:
            if not 0 <= t < arch.T:
                raise ValueError(f"times must be from 0 to {arch.T - 1}, got {t}")


class Context:
    """A model at work: what a mode reads. Everything is opened when it is first asked for."""

    def __init__(
        self,
        workdir: Path,
        options: Options,
        out: Path,
        data: Data | None = None,
        model: Model | None = None,
        shared: Path | None = None,
    ):
        """out: where files go; shared: where several processes divide long work, if not there.
        data: which pictures, where not those of the options or those the run was trained on."""
        self.workdir, self.options, self.out, self.given = workdir, options, out, data
        self.shared = shared or out
        self.model = model or load(workdir, precision=options.precision, batch_size=64)
        options.check(self.model.arch)

    def within(self, name: str, **options) -> "Context":
        """The same model at other work, in a folder of its own."""
        return Context(
            self.workdir,
            dataclasses.replace(self.options, **options),
            self.out / name,
            self.given,
            self.model,
            self.shared / name,
        )

    def n(self, default: int) -> int:
        return self.options.n or default

    def trained(self) -> Data | None:
        """What the run was trained on; None of a model that was brought in."""
        records = trained_data(self.workdir)
        return records[-1] if records else None

    def data(self) -> Data:
        """The given pictures, or what the run was trained on."""
        if self.options.images:
            return Data(f"folder:{self.options.images}", attributes=self.options.labels)
        data = self.given or self.trained()
        if data is None:
            raise ValueError(
                f"{self.workdir} was brought in, and knows no pictures: give some "
                f"with --images=PATH (a picture, a folder or a glob)"
            )
        return data

    def source(self, split: str = "test"):
        """The given pictures, all of them, or a split of the run's."""
        return self.data().open("all" if self.options.images else split)

    def pictures(self, n: int = 8) -> np.ndarray:
        """The first pictures, as many as the options say or n; uint8 [n, H, W, C]."""
        return first_pictures(self.source(), self.model.arch, self.n(n), self.data().max_broken)

    def made_from(self) -> dict:
        """What this work depends on besides its own options: the model, and the data."""
        return self.shared_made_from(self.data()) | {"precision": self.options.precision}

    def shared_made_from(self, data: Data) -> dict:
        """What the codes depend on that training and all work share."""
        return codes_lib.made_from(self.workdir, dataclasses.asdict(data))

    def model_made_from(self) -> dict:
        """What work depends on that needs no pictures: every checkpoint of the model."""
        return {
            "checkpoints": checkpoint.latest_steps(self.workdir),
            "precision": self.options.precision,
        }

    def encode(self, folder: Path) -> codes_lib.Codes:
        """z of all pictures of this work, encoded once into a folder of its own."""
        data = self.data()
        return codes_lib.encode(
            self.model,
            data.open("all"),
            folder,
            made_from=self.made_from(),
            workers=data.workers,
            max_broken=data.max_broken,
        )

    def encode_split(self, data: Data, split: str) -> codes_lib.Codes:
        """z of a split, encoded once into the workdir for all work, so in full precision."""
        return codes_lib.encode(
            self.precise,
            data.open(split),
            self.workdir / "codes" / split,
            made_from=self.shared_made_from(data),
            workers=data.workers,
            max_broken=data.max_broken,
        )

    @functools.cached_property
    def precise(self) -> Model:
        """The model in full precision, whatever this work's is."""
        if self.options.precision == "float32":
            return self.model
        return load(self.workdir, batch_size=64)

    def codes(self, split: str) -> codes_lib.Codes:
        """z of a split of the run's own data, normalised."""
        data = self.given or self.trained()
        if data is None:
            raise ValueError(
                f"{self.workdir} was brought in, and has no labelled pictures: give "
                f"--images=PATH --labels=FILE.csv"
            )
        return self.normalised(self.encode_split(data, split))

    def normalised(self, table: codes_lib.Codes) -> codes_lib.Codes:
        table = table.whole()
        return table._replace(z=np.asarray(latent.normalise(self.statistics(), table.z)))

    def statistics(self) -> dict:
        """Mean and standard deviation of z over the training pictures, computed where missing."""
        data = self.trained()
        if "statistics" not in self.model.params and data:
            table = self.encode_split(data, "train")
            codes_lib.store_statistics(self.workdir, table, self.shared_made_from(data))
            self.model.params |= checkpoint.read_weights(self.workdir, ("statistics",))
        self.model.need("statistics")
        return self.model.params["statistics"]

    def attributes(self) -> tuple[str, ...]:
        """What the classifier tells apart."""
        self.model.need("classifier")
        return checkpoint.read_attributes(self.workdir)

    def attribute(self, name: str) -> int:
        """The place of an attribute in the classifier; ValueError with the nearest names."""
        names = self.attributes()
        return names.index(nearest(name, names, "attribute"))

    def metrics(self) -> Metrics:
        return Metrics.load(self.options.metrics) if self.options.metrics else Metrics()


@dataclasses.dataclass
class Result:
    """sections: of the page. numbers: of the JSON file. grids: NAME -> rows of uint8 pictures.
    headline: the few numbers that a report's head shows."""

    sections: list[Section]
    numbers: dict[str, Any]
    grids: dict[str, list] = dataclasses.field(default_factory=dict)
    headline: dict[str, float] = dataclasses.field(default_factory=dict)


def save_grid(path: Path, rows) -> None:
    """Rows of uint8 [n, H, W, C] as a PNG, small pictures enlarged to about 48 pixels."""
    picture(grid(rows, gap=1), max(1, 48 // rows[0].shape[2])).save(path)


def picture(image: np.ndarray, zoom: int = 1) -> Image.Image:
    """uint8 [H, W, 1 or 3] as a picture, each pixel zoom wide."""
    image = image.repeat(zoom, 0).repeat(zoom, 1)
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def lines(images: np.ndarray, width: int = 8) -> list[np.ndarray]:
    """Pictures in rows of `width`."""
    return [images[k : k + width] for k in range(0, len(images), width)]


def pairs(numbers: dict) -> list[list[str]]:
    """Names and numbers as the rows of a table."""
    return [
        [name, f"{value:.4g}" if isinstance(value, float) else str(value)]
        for name, value in numbers.items()
    ]
