"""The quickstart, digits from nothing to the report, with a smaller model and fewer steps."""

import json

import numpy as np
import pytest
from helpers import OPTIMISED, run_program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("quickstart")
    run_program("quickstart", workdir, **OPTIMISED)
    yield json.loads((workdir / "report" / "numbers.json").read_text())["numbers"]
    before = (workdir / "report" / "index.html").stat().st_mtime_ns
    run_program("quickstart", workdir, **OPTIMISED)  # what is done is not done again
    assert (workdir / "report" / "index.html").stat().st_mtime_ns == before


def test_z_says_what_the_picture_is(numbers):
    alone, inferred, no_code = numbers["evaluate"]["reconstruction"].values()
    assert inferred["mse"] < alone["mse"] < no_code["mse"]
    assert inferred["ssim"] > alone["ssim"] > no_code["ssim"] + 0.05


def test_the_shift_closes_a_share_of_the_gap(numbers):
    assert 0.1 < numbers["gap"]["closed"] < 1


def test_edits_move_the_edited_attribute_more_than_the_others(numbers):
    edited = numbers["manipulate"]
    assert edited["logit_change"] > 1.2 * edited["others_mean_absolute_change"] > 0


def test_few_shot_codes_are_of_the_class(numbers):
    found = numbers["fewshot"]
    assert found["made"] == 64 and found["agreement"] > 0.5  # of ten classes


def test_z_is_as_linear_as_principal_components(numbers):
    means = numbers["probe"]["means"]
    assert (
        means["z"]["auroc"] > 0.95 and means["z"]["ap"] > means["principal components"]["ap"] - 0.05
    )
    assert all(np.isfinite(value) for mean in means.values() for value in mean.values())
