"""What the documents say to type: lines that the command takes, and Python that runs."""

import re
import shlex

import numpy as np
import pytest
from helpers import ROOT

from pdae_jax.main import parse

PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
NOT_YET = ("NAME", "DIR", "WORKDIR", "MODE", "...")  # placeholders of a form, not of a value


def lines_of(page):
    """Lines of code blocks, and those within words, whole where they are folded."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    blocks += re.findall(r"^((?:    .*\n)+)", text, re.M)
    found = []
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            found += [part.partition("#")[0].strip() for part in line.split("&&")]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found += [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", prose)]
    starts = ("pdae_jax ", "python -m pdae_jax.main ")
    return [line for line in found if line.startswith(starts)]


@pytest.mark.parametrize("page", PAGES)
def test_every_line_is_one_that_the_command_takes(page, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    for line in lines_of(page):
        words = shlex.split(line)
        if {word.rpartition("=")[2] for word in words} & set(NOT_YET):
            continue
        argv = words if words[0] == "pdae_jax" else ["pdae_jax", *words[3:]]
        try:
            parse(argv)
        except ValueError as error:
            assert "no such file" in str(error), f"{line}: {error}"  # one that is yours


def test_the_recipes_run(monkeypatch):
    """In Python, from top to bottom, on the model that ships."""
    monkeypatch.chdir(ROOT)
    names = {}
    text = (ROOT / "docs/recipes.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "docs/recipes.md", "exec"), names)
    assert names["darker"].shape == names["images"].shape
    assert names["moved"].shape == (4, 32, 32, 3) and np.isfinite(names["moved"]).all()
    assert set(names["nearest"]) <= set(range(len(names["images"])))
