"""What is explored: a model at work on open pictures, whose codes are moved. Knows no web."""

import dataclasses
import io
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pdae_jax import latent, samplers
from pdae_jax.data.pipeline import batches
from pdae_jax.data.source import Source
from pdae_jax.images import visible
from pdae_jax.latent import Statistics
from pdae_jax.model import Model, Noise
from pdae_jax.tasks import encoding, few_shot, generation, interpolation, projection

KEPT = 200  # open pictures, the latest
PREVIEW_STEPS = 5  # of decoding, while a slider moves
COMPONENTS = 6  # principal components of z that have sliders
NEIGHBOURS = 8
MOST = 64  # pictures that are generated at once

Direction = Float[np.ndarray, " d"]  # a unit vector in normalised z
Image = Float[np.ndarray, "H W C"]


@dataclasses.dataclass
class Picture:
    """An open picture.

    image: [H, W, C] as the encoder takes it; None of what was generated, which is of z alone. x_T:
    None until it is asked for. point: of the known codes its own, where it is one of them.
    """

    name: str
    image: np.ndarray | None
    z: np.ndarray
    x_T: Noise | None = None
    point: int | None = None


@dataclasses.dataclass(frozen=True)
class Move:
    """How far a code goes along a direction, in standard deviations of the known codes along it.

    kind: "attribute", "component" or "group", a direction between two groups of pictures. which:
    the attribute's name, or the number of the others.
    """

    kind: str
    which: str | int
    amount: float


@dataclasses.dataclass(frozen=True)
class Edit:
    """What is made of a picture: its code moved, or part of the way to another's.

    hold: no attribute changes, but those that have a move. noise: from its inferred x_T; else, and
    of what was generated, from z alone. other, weight: the second picture, and from 0 to 1 how far
    towards it; then there are no moves.
    """

    moves: tuple[Move, ...] = ()
    hold: bool = False
    noise: bool = True
    other: Picture | None = None
    weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight = {self.weight}: must be from 0 to 1")

    @property
    def towards(self) -> Picture | None:
        """The second picture, where it has a part in it."""
        return self.other if self.weight else None


NOTHING = Edit()


class Atlas(NamedTuple):
    """Codes that are known, normalised, of pictures at these places in a source."""

    source: Source
    places: np.ndarray
    z: Float[np.ndarray, "N d"]


class Session:
    """A model at work on open pictures, for one caller at a time.

    name: what the model is loaded by. how: other arguments that it was loaded with. statistics: of
    z; None where nothing tells them, and then nothing can be moved. atlas: None where there are no
    pictures.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        statistics: Statistics | None = None,
        atlas: Atlas | None = None,
        how: Mapping[str, str] | None = None,
    ):
        self.model, self.name, self.statistics, self.atlas = model, name, statistics, atlas
        self.how = how or {}
        self.components: list[Direction] = []
        self.shares: list[float] = []  # of the variance
        self.groups: list[Direction] = []
        self._pictures: OrderedDict[int, Picture] = OrderedDict()
        self._opened = 0
        if atlas is not None and statistics is not None and len(atlas.z) > 2:
            directions, shares = projection.components(atlas.z, COMPONENTS)
            self.components = [*directions.astype(np.float32)]
            self.shares = shares.tolist()

    @property
    def attributes(self) -> tuple[str, ...]:
        """Those that have sliders."""
        there = "classifier" in self.model.params and self.statistics is not None
        return self.model.attributes if there else ()

    @property
    def known(self) -> Atlas:
        """The known codes; ValueError where there are none."""
        if self.atlas is None:
            raise ValueError("no pictures are known here: start the explorer with --images=PATH")
        return self.atlas

    # Open pictures

    def open(self, picture: Picture) -> int:
        """Opens a picture; its number."""
        self._opened += 1
        self._pictures[self._opened] = picture
        while len(self._pictures) > KEPT:
            self._pictures.popitem(last=False)
        return self._opened

    def picture(self, number: int) -> Picture:
        """An open picture; ValueError where it is not open any more."""
        if number not in self._pictures:
            raise ValueError(f"picture {number} is not open any more: open it again")
        self._pictures.move_to_end(number)
        return self._pictures[number]

    def open_image(self, name: str, image: np.ndarray, point: int | None = None) -> int:
        """Opens a picture that fits the model."""
        return self.open(Picture(name, image, self.model.encode(image), point=point))

    def open_point(self, point: int) -> int:
        """Opens the picture of a known code; the same as before, while it is open."""
        self._check([point], "point")
        for number, picture in self._pictures.items():
            if picture.point == point:
                return number
        source, place = self.known.source, int(self.known.places[point])
        height, width, channels = self.model.arch.image_shape
        with batches(
            source,
            size=(height, width),
            channels=channels,
            batch_size=1,
            indices=[place],
            max_broken=0.0,
        ) as some:
            batch = next(some)
        if not batch["mask"][0]:
            where = source.where(place)
            raise ValueError(f"{where} cannot be read any more: {some.broken.get(where, '')}")
        return self.open_image(source.path(place), batch["image"][0], point)

    def neighbours(self, picture: Picture) -> list[int]:
        """The known codes that are nearest in normalised z, the nearest first, but its own."""
        distances = np.linalg.norm(self.known.z - self._normalised(picture.z), axis=1)
        return [int(k) for k in np.argsort(distances) if k != picture.point][:NEIGHBOURS]

    # Codes

    def moved(self, z: np.ndarray, edit: Edit) -> np.ndarray:
        """A code after its moves."""
        step = np.zeros_like(z)
        for move in edit.moves:
            if move.amount:
                step += self._strength(move, edit) * self._along(move, edit)
        if not step.any():
            return z
        found = self._normalised(z) + np.sqrt(len(z)) * step
        return np.asarray(latent.denormalise(self.statistics or {}, found[None]), np.float32)[0]

    def add_group(self, first: Sequence[int], second: Sequence[int]) -> int:
        """The direction from some known codes to others; its number."""
        self._check(first, "first group")
        self._check(second, "second group")
        z = self.known.z
        between = z[list(second)].mean(0) - z[list(first)].mean(0)
        length = float(np.linalg.norm(between))
        if length < 1e-6:
            raise ValueError("both groups have the same mean: draw around others")
        self.groups.append((between / length).astype(np.float32))
        return len(self.groups) - 1

    def _normalised(self, z: np.ndarray) -> np.ndarray:
        if self.statistics is None:
            raise ValueError(
                "the mean and the standard deviation of z are not known here: start the explorer "
                "with --images=PATH, three pictures or more"
            )
        return np.asarray(latent.normalise(self.statistics, z[None]))[0]

    def _kept(self, edit: Edit) -> list[str]:
        """The attributes that are held still."""
        changed = {move.which for move in edit.moves if move.kind == "attribute" and move.amount}
        return [name for name in self.attributes if name not in changed] if edit.hold else []

    def _along(self, move: Move, edit: Edit) -> Direction:
        if move.kind == "attribute":
            return self.model.direction(str(move.which), self._kept(edit))
        known = {"component": self.components, "group": self.groups}.get(move.kind, [])
        if not (isinstance(move.which, int) and 0 <= move.which < len(known)):
            raise ValueError(f"there is no {move.kind} {move.which}: there are {len(known)}")
        return known[move.which]

    def _strength(self, move: Move, edit: Edit) -> float:
        """A move as `Model.edit` has it: in units of sqrt(d)."""
        spread = 1.0  # of normalised z, where no codes are known
        if self.atlas is not None:
            spread = float(np.std(self.atlas.z @ self._along(move, edit))) or 1.0
        return move.amount * spread / float(np.sqrt(self.model.arch.z_size))

    def _check(self, points: Sequence[int], what: str) -> None:
        n = len(self.known.z)
        if not points or not all(isinstance(k, int) and 0 <= k < n for k in points):
            raise ValueError(f"the {what} must be of the {n} points of the map, got {points!r}")

    # Decoding

    def edited(
        self, picture: Picture, edit: Edit = NOTHING, *, preview: bool = False
    ) -> tuple[Image, np.ndarray]:
        """What is made of a picture, in [-1, 1], and its code. preview: in few steps."""
        if edit.towards is None:
            z = self.moved(picture.z, edit)
            return self._decoded(z, self._x_T(picture) if edit.noise else None, preview), z
        z = np.asarray(samplers.lerp(picture.z, edit.towards.z, edit.weight))
        ends = [self._x_T(one) for one in (picture, edit.towards)] if edit.noise else [None]
        there = [x_T for x_T in ends if x_T is not None]
        both = len(there) == 2
        x_T = interpolation.slerp(there[0], there[1], edit.weight) if both else None
        return self._decoded(z, x_T, preview), z

    def _has_noise(self, picture: Picture, edit: Edit) -> bool:
        """Whether it is decoded from an inferred x_T."""
        ends = (picture, edit.towards or picture)
        return edit.noise and all(one.image is not None for one in ends)

    def probabilities(self, z: np.ndarray) -> dict[str, float]:
        """p(y|z) of each attribute, where there are any."""
        if not self.attributes or "statistics" not in self.model.params:
            return {}
        return dict(zip(self.attributes, self.model.classify(z).tolist()))

    def _x_T(self, picture: Picture) -> Noise | None:
        if picture.x_T is None and picture.image is not None:
            picture.x_T = self.model.invert(picture.image[None], picture.z[None])
        return picture.x_T

    def _decoded(self, z: np.ndarray, x_T: Noise | None, preview: bool) -> Image:
        protocol = self.model.protocol
        how = protocol.draw if x_T is None else protocol.decode
        few = preview and how.network == "pdae" and how.steps > PREVIEW_STEPS
        steps = PREVIEW_STEPS if few else None
        if x_T is None:
            return self.model.decode(z[None], steps=steps, temperature=0.0)[0]
        return self.model.decode(z[None], x_T, steps)[0]

    # From nothing

    def generate(self, n: int, seed: int) -> list[int]:
        """Opens n pictures of codes that the latent model draws."""
        self._check_number(n)
        return self._open_codes(self.model.generate_codes(n, rng=seed), "generated")

    def few_shot(self, points: Sequence[int], n: int, seed: int) -> list[int]:
        """Opens n pictures of the kind of which some known ones are examples.

        The others are taken for negatives, as unlabelled pictures are: some may be positives.
        """
        self._check_number(n)
        self._check(points, "examples")
        self.model.need("latent")
        z = self.known.z
        rest = np.setdiff1d(np.arange(len(z)), points)
        if not len(rest):
            raise ValueError("all pictures are examples, so that there is nothing to tell them by")
        classifier = few_shot.few_shot_classifier(
            z[list(points)], np.ones(len(points)), unlabelled=z[rest]
        )
        accepted = generation.generate_codes_of_class(self.model, classifier, n, seed=seed)
        if not len(accepted.z):
            raise ValueError(
                f"none of {accepted.drawn} codes that the latent model drew is of this kind: "
                f"choose more examples, or others"
            )
        return self._open_codes(accepted.z, "of the examples' kind")

    def _check_number(self, n: int) -> None:
        if not 1 <= n <= MOST:
            raise ValueError(f"{n} pictures are asked for: 1 to {MOST} at once")

    def _open_codes(self, z: np.ndarray, name: str) -> list[int]:
        return [self.open(Picture(f"{name}, {k}", None, one)) for k, one in enumerate(z, 1)]

    # What is taken away

    def lines(self, picture: Picture, edit: Edit = NOTHING) -> str:
        """The Python that makes what is made of a picture, beside the files of `archive`."""
        how = "".join(f", {name}={value!r}" for name, value in self.how.items())
        found = ["import numpy as np", "import pdae_jax", ""]
        found.append(f"model = pdae_jax.load({self.name!r}{how})")
        with_x_T = self._has_noise(picture, edit)
        found += self._lines_of(picture, "original", "z", "x_T" * with_x_T)
        if edit.towards is not None:
            found += self._lines_of(edit.towards, "other", "z_2", "x_T_2" * with_x_T)
            if with_x_T:
                found.insert(1, "from pdae_jax.tasks.interpolation import slerp")
                found.append(f"x_T = slerp(x_T[None], x_T_2[None], {edit.weight})[0]")
            found.append(f"z = z + {edit.weight} * (z_2 - z)")
        elif "statistics" in self.model.params:
            found += [self._line(move, edit) for move in edit.moves if move.amount]
        elif any(move.amount for move in edit.moves):  # by the explorer's own statistics
            found.append('z = np.load("z.npy")')
        found.append(f"picture = model.decode(z{', x_T' if with_x_T else ', temperature=0'})")
        found.append('pdae_jax.images.to_pil(pdae_jax.images.visible(picture)).save("again.png")')
        return "\n".join(found) + "\n"

    def _lines_of(self, picture: Picture, file: str, z: str, x_T: str) -> list[str]:
        """Those that make the code of a picture, and its x_T."""
        of = f"  # {picture.name!r}"
        if picture.image is None:
            return [f'{z} = np.load("{file}_z.npy"){of}']
        told = "" if picture.image.dtype == np.uint8 else ", value_range=(-1, 1)"
        found = [f'{file} = np.load("{file}.npy"){of}', f"{z} = model.encode({file}{told})"]
        return [*found, f"{x_T} = model.invert({file}, {z}{told})"] if x_T else found

    def _line(self, move: Move, edit: Edit) -> str:
        strength = f"{self._strength(move, edit):.6g}"
        if move.kind != "attribute":
            return f'z = model.edit(z, np.load("{move.kind}_{move.which}.npy"), {strength})'
        kept = self._kept(edit)
        return f"z = model.edit(z, {move.which!r}, {strength}{f', keep={kept}' if kept else ''})"

    def archive(self, picture: Picture, edit: Edit = NOTHING) -> bytes:
        """A ZIP of what is made of a picture, its z, the originals, and Python that makes it."""
        image, z = self.edited(picture, edit)
        arrays = {"z": z, "picture": image}
        for file, one in (("original", picture), ("other", edit.towards)):
            if one is not None:
                name = file if one.image is not None else f"{file}_z"
                arrays[name] = one.z if one.image is None else one.image
        for move in edit.moves:
            if move.amount and move.kind != "attribute":
                arrays[f"{move.kind}_{move.which}"] = self._along(move, edit)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as found:
            for name, array in arrays.items():
                file = io.BytesIO()
                np.save(file, array)
                found.writestr(f"{name}.npy", file.getvalue())
            found.writestr("picture.png", encoding.png(visible(image)))
            found.writestr("make.py", self.lines(picture, edit))
        return stream.getvalue()
