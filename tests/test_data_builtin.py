"""Digits and emoji: counts, labels, and that nothing leaks from training into the test."""

import numpy as np
import pytest

from pdae_jax.data import DataError, open_source
from pdae_jax.data.builtin import HAIR, SIGN, SKIN, VS16, ZWJ, Emoji, Twemoji, base_character


def test_digits_are_all_there_at_full_contrast():
    parts = [open_source("digits", split) for split in ("train", "test", "all")]
    assert [len(part) for part in parts] == [1438, 359, 1797]
    image = parts[2].image(0)
    assert image.shape == (8, 8, 1) and image.dtype == np.uint8
    assert parts[2].images.min() == 0 and parts[2].images.max() == 255
    assert not set(parts[0].indices) & set(parts[1].indices)


def test_digits_are_labelled_and_stratified():
    from sklearn.datasets import load_digits

    source = open_source("digits", "all")
    assert source.attributes == tuple("0123456789")
    assert np.array_equal(source.labels.argmax(1), load_digits().target)
    shares = open_source("digits", "test").labels.sum(0) / source.labels.sum(0)
    assert np.abs(shares - 0.2).max() < 0.01


def test_digits_split_follows_the_seed():
    a, b, c = (open_source("digits", "test", seed=s).indices for s in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.fixture(scope="module")
def emoji():
    return Emoji("all")


def sequence(text):
    return tuple(ord(character) for character in text)


def test_emoji_are_about_1300_pictures(emoji):
    assert 1200 <= len(emoji) <= 1400
    image = emoji.image(0)
    assert image.shape == (72, 72, 3) and image.dtype == np.uint8
    assert (emoji.image(emoji.sequences.index(sequence("\U0001f468")))[0, 0] == 255).all()  # white


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f468\u200d\U0001f469\u200d\U0001f466",  # a family
        "\U0001f469\u200d\u2764\ufe0f\u200d\U0001f468",  # a couple
        "\U0001f9d1\u200d\U0001f91d\u200d\U0001f9d1",  # holding hands
        "\U0001f46b",
        "\U0001f46f",
        "\U0001f93c",
        "\U0001f44d",  # two people, bunnies, fights, a hand
        "\U0001f6b6\u200d\u27a1\ufe0f",  # a mirror image
    ],
)
def test_emoji_that_are_no_single_person_are_left_out(emoji, text):
    assert sequence(text) not in emoji.sequences


@pytest.mark.parametrize(
    "text, expected",
    [
        ("\U0001f469\U0001f3fd", {"woman", "medium skin", "adult"}),
        ("\U0001f468\U0001f3ff\u200d\U0001f9b0", {"man", "dark skin", "red hair", "adult"}),
        ("\U0001f9d1\u200d\U0001f692", {"person", "yellow skin", "adult"}),
        ("\U0001f46e\U0001f3fb\u200d\u2640\ufe0f", {"woman", "light skin", "adult"}),
        ("\U0001f471", {"person", "yellow skin", "blond hair", "adult"}),
        ("\U0001f475", {"woman", "yellow skin", "older"}),
        ("\U0001f9d2\U0001f3fe", {"person", "medium-dark skin", "child"}),
        ("\U0001f476", {"person", "yellow skin", "baby"}),
        ("\U0001f9df\u200d\u2642\ufe0f", {"man", "adult"}),  # zombies have no skin tone
    ],
)
def test_emoji_attributes(emoji, text, expected):
    row = emoji.labels[emoji.sequences.index(sequence(text))]
    assert {name for name, value in zip(emoji.attributes, row, strict=True) if value} == expected


def test_emoji_have_one_gender_one_age_and_at_most_one_skin(emoji):
    column = {name: emoji.labels[:, a] for a, name in enumerate(emoji.attributes)}
    assert (column["woman"] + column["man"] + column["person"] == 1).all()
    assert (column["baby"] + column["child"] + column["adult"] + column["older"] == 1).all()
    assert (sum(column[name] for name in ("yellow skin", *SKIN.values())) <= 1).all()
    assert emoji.description(0).isascii()


@pytest.mark.parametrize("seed", range(5))
def test_emoji_twins_never_fall_on_both_sides(emoji, seed):
    train, test = Emoji("train", seed=seed), Emoji("test", seed=seed)
    assert sorted(train.sequences + test.sequences) == sorted(emoji.sequences)
    assert 0.05 < len(test) / len(emoji) <= 0.1
    keys = [{base_character(s) for s in part.sequences} for part in (train, test)]
    assert not keys[0] & keys[1]

    def bare(s):
        """Written apart from `base_character`: no tone, sign or hair, man and woman as person."""
        kept = [p for p in s if p not in {*SKIN, *SIGN, *HAIR, ZWJ, VS16}]
        return tuple(0x1F9D1 if p in (0x1F468, 0x1F469) else p for p in kept)

    assert not {bare(s) for s in train.sequences} & {bare(s) for s in test.sequences}
    pictures = [{part.image(i).tobytes() for i in range(len(part))} for part in (train, test)]
    assert not pictures[0] & pictures[1]


@pytest.mark.parametrize(
    "a, b",
    [
        ("\U0001f468\U0001f3fd\u200d\U0001f692", "\U0001f9d1\u200d\U0001f692"),
        ("\U0001f469\u200d\U0001f9b3", "\U0001f9d1"),
        ("\U0001f471", "\U0001f9d4\U0001f3fb"),
        ("\U0001f385", "\U0001f9d1\U0001f3ff\u200d\U0001f384"),
        ("\U0001f478", "\U0001fac5"),
        ("\U0001f57a", "\U0001f483"),
        ("\U0001f930", "\U0001fac3"),
        ("\U0001f474", "\U0001f9d3"),
    ],
)
def test_emoji_of_one_character(a, b):
    assert base_character(sequence(a)) == base_character(sequence(b))


def test_builtin_data_refuse_what_they_do_not_take():
    with pytest.raises(DataError, match="digits does not read it"):
        open_source("digits", attributes="x.csv")
    with pytest.raises(DataError, match="no split"):
        open_source("emoji", "valid")
    with pytest.raises(DataError, match="test_fraction=0"):
        open_source("emoji", "test", test_fraction=0)
    with pytest.raises(DataError, match="tfds: names alone"):
        open_source("digits", data_dir="x")


def test_all_of_twemoji_is_trained_on_but_what_shows_a_held_out_character(emoji):
    """The people twice, the rest once and without labels, and the same pictures held out."""
    train, test = Twemoji("train"), Twemoji("test")
    people = Emoji("train").sequences
    assert train.sequences[: 2 * len(people)] == people * 2
    rest = train.sequences[2 * len(people) :]
    assert len(rest) == len(set(rest)) == 2737 and set(rest).isdisjoint(emoji.sequences)
    assert test.sequences == Emoji("test").sequences
    held_out = {base_character(one) for one in test.sequences}
    assert not held_out & {base_character(one) for one in rest}
    alone = {one[0] for one in held_out if len(one) == 1}
    assert len(alone) == 8 and not any(alone & set(one) for one in rest)
    assert np.isnan(train.labels[len(people) * 2 :]).all()
    np.testing.assert_array_equal(train.labels[: len(people)], Emoji("train").labels)
    assert len(Twemoji("all")) > 4000 and Twemoji("all").name == "twemoji"
