"""Folders that hold a model: diffusers' (or a pipeline's), or a training's with one checkpoint.

What diffusers names in a folder is named here alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from pdae_jax.convert import torch_file
from pdae_jax.runtime.choices import listed

CONFIGS = {"network": "config.json", "scheduler": "scheduler_config.json"}
WEIGHTS = (  # of diffusers, best first
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_model.pt",
    "model.safetensors",
    "pytorch_model.bin",
)
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl")
LATENT = ("vae", "vqvae", "movq", "text_encoder", "bert", "prior", "transformer")


class Found(NamedTuple):
    """The weights' file, and the configs that stand beside it. note: what was chosen of several."""

    weights: Path
    config: Path | None = None
    scheduler: Path | None = None
    note: str = ""


def find(path: Path, weights: str = "ema") -> Found:
    """The model of a folder, or of a file with what stands beside it.

    weights: "ema" or "raw", where there are `unet_ema` and `unet`. Raises ValueError where there is
    none, several, or one that is a part of something else.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if path.is_file():
        _check_pipeline(path.parent.parent)
        config = path.parent / CONFIGS["network"]
        known = _is_diffusers(config)
        return Found(path, config if known else None, _scheduler(path.parent) if known else None)
    for folder in (path, path.parent):
        _check_pipeline(folder)
    parts = {name: path / name for name in ("unet_ema", "unet") if (path / name).is_dir()}
    note, home = "", path
    if parts and not (path / CONFIGS["network"]).is_file():
        wanted = "unet_ema" if weights == "ema" else "unet"
        home = parts.get(wanted) or next(iter(parts.values()))
        if len(parts) > 1:
            note = f"{'unet' if wanted == 'unet_ema' else 'unet_ema'}: {wanted} is taken"
    config = home / CONFIGS["network"]
    there = [home / name for name in WEIGHTS if (home / name).is_file()]
    if any(home.glob("*.index.json")) and not there:
        raise ValueError(
            f"{home}: its weights are in several files (*.index.json); load and save it again in "
            f"diffusers with max_shard_size='100GB'"
        )
    files = sorted(
        file for file in home.iterdir() if file.is_file() and file.suffix.lower() in CHECKPOINTS
    )
    if len(files) == 1:  # whatever it is called, such as diffusion_pytorch_model.fp16.safetensors
        there = files
    if there and _is_diffusers(config):
        return Found(there[0], config, _scheduler(home), note)
    if len(files) == 1:
        return Found(files[0])
    if files:
        raise ValueError(
            f"{home}: it has {len(files)} checkpoints, {listed([f.name for f in files])}: give one"
        )
    raise ValueError(
        f"{path}: no model in this folder: neither diffusers' config.json and "
        f"diffusion_pytorch_model.safetensors (or .bin), nor a checkpoint "
        f"({', '.join(CHECKPOINTS)})"
    )


def _check_pipeline(path: Path) -> None:
    """Raises ValueError for a pipeline whose pictures are not what its UNet works on."""
    index = path / "model_index.json"
    if not index.is_file():
        return
    parts = read_json(index)
    absent = (None, [None, None])
    latent = [name for name in LATENT if parts.get(name) not in absent]
    if latent:
        raise ValueError(
            f"{path}: {listed([parts.get('_class_name', 'its pipeline')])} works on latents or "
            f"conditions (it has {', '.join(latent)}), and only diffusion models of pixels come in"
        )


def _scheduler(home: Path) -> Path | None:
    """The scheduler's config, beside the network or in the pipeline that it is a part of."""
    above = [folder / "scheduler" for folder in (home, home.parent, home.parent.parent)]
    folders = (home, above[0], home.parent, *above[1:])  # of a training's checkpoint-N/unet too
    places = [folder / CONFIGS["scheduler"] for folder in folders]
    return next((place for place in places if place.is_file()), None)


def settings_beside(path: Path) -> Path:
    """Where `export` writes the architecture of a file in another project's names."""
    return path.with_name(f"{path.name}.architecture.json")


def _is_diffusers(config: Path) -> bool:
    """Whether a file is the config of one of diffusers' networks."""
    if not config.is_file():
        return False
    torch_file.check_fetched(config)
    try:
        return "_class_name" in read_json(config)
    except ValueError:
        return False


def write(
    folder: Path, state: dict[str, np.ndarray], configs: Mapping[str, Mapping[str, Any]]
) -> None:
    """Writes weights and configs, by their names in `CONFIGS`, as diffusers reads them."""
    safetensors.numpy.save_file(state, folder / WEIGHTS[0], metadata={"format": "pt"})
    for name, config in configs.items():
        (folder / CONFIGS[name]).write_text(json.dumps(config, indent=2))


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object; ValueError where the file holds none."""
    torch_file.check_fetched(path)
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON ({str(error)[:80]}): fetch it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: a JSON {type(value).__name__}, and an object is expected")
    return value
