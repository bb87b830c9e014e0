"""Trained models that ship with the package: packed small, and unpacked where one is first used.

A packed model is a folder of `pdae_jax/models`: what a workdir holds beside its checkpoints, and
weights.safetensors, the averaged weights in float16. Its `LICENSE` and `pictures` are for people.
"""

import hashlib
import json
import os
import shutil
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from safetensors import safe_open

from pdae_jax.networks.groups import Params
from pdae_jax.runtime import atomic, processes
from pdae_jax.runtime.paths import local
from pdae_jax.workdir.lock import Lock
from pdae_jax.workdir.workdir import Workdir

CACHE = "~/.cache/pdae_jax/models"
WEIGHTS = "weights.safetensors"
RECORDS = ("config.json", "model.json", "values.json")
OF_TRAINING = (
    "attributes.json",
    "cache_key.json",
    "data.json",
    "metrics.jsonl",
    "settings.jsonl",
    "time.jsonl",
)


def folder() -> Path:
    """The folder of the packed models in the package."""
    return Path(str(resources.files("pdae_jax").joinpath("models")))


def names() -> list[str]:
    """The names of the models that ship."""
    return sorted(path.parent.name for path in folder().glob(f"*/{WEIGHTS}"))


def located(workdir: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The directory of a model: where `workdir` is the name of one that ships, its unpacked one.

    A directory of that name comes first. Unpacked once for each version, below ~/.cache/pdae_jax.
    """
    name = os.fspath(workdir)
    if name not in names() or local(name).exists():
        return workdir
    packed = folder() / name
    found = hashlib.sha256((packed / WEIGHTS).read_bytes())
    for file in sorted(packed.rglob("*.json*")):
        found.update(file.read_bytes())
    unpacked = local(CACHE) / f"{name}-{found.hexdigest()[:12]}" / name

    def missing() -> bool:
        return processes.ask_first(lambda: not (unpacked / "model.json").is_file())

    if missing():
        with Lock(unpacked.parent, wait=True):  # of several programs, one unpacks
            if missing() and processes.writes():
                with atomic.new_folder(unpacked) as partial:
                    unpack(packed, partial)
        processes.wait("model unpacked")
    return unpacked


def name_of(workdir: str | os.PathLike[str]) -> str:
    """What a command line calls a workdir: the name of a model that ships, or its path."""
    path = local(workdir)
    return path.name if path.parent.parent == local(CACHE) else os.fspath(workdir)


def pack(workdir: str | os.PathLike[str], packed: str | os.PathLike[str]) -> Path:
    """Packs a workdir's model and records; what is stale, or resumed from, stays behind.

    packed: a new folder, or one that has no model. Raises ValueError where it has one, and for
    weights that float16 cannot hold.
    """
    home, packed = Workdir(workdir), Path(packed)
    if (packed / WEIGHTS).exists():
        raise ValueError(f"{packed} holds a packed model: delete its {WEIGHTS} to pack another")
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree.leaves_with_path(home.weights()):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        tensors[name] = np.asarray(leaf).astype(np.float16)
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name} of {home} has numbers that float16 cannot hold")
    kept = {name: save for name, save in home.saved.items() if name not in home.stale}
    packed.mkdir(parents=True, exist_ok=True)
    for file in (*RECORDS, *(f"{name}/{file}" for name in kept for file in OF_TRAINING)):
        if (home.path / file).is_file():
            (packed / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(home.path / file, packed / file)
    metadata = {name: json.dumps([save.step, *save.groups]) for name, save in kept.items()}
    with atomic.new_file(packed / WEIGHTS) as partial:
        safetensors.numpy.save_file(tensors, partial, metadata=metadata)
    return packed


def unpack(packed: Path, workdir: Path) -> Workdir:
    """Makes the workdir of a packed model: float32 checkpoints, and its records."""
    with safe_open(packed / WEIGHTS, "numpy") as file:
        kept = {name: json.loads(words) for name, words in file.metadata().items()}
        params: Params = {}
        for name in file.keys():  # noqa: SIM118 - it is no dict
            *path, leaf = name.split("/")
            node = params
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = file.get_tensor(name).astype(np.float32)
    home = Workdir(workdir)
    for file in packed.rglob("*.json*"):
        copy = workdir / file.relative_to(packed)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    for step, *groups in kept.values():
        home.save_weights({group: params[group] for group in groups}, step)
    for name in kept:
        home.renew_origin(name)
    return home
