"""Recognises the kind of a PyTorch file by its content, and finds its networks' state dicts."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pdae_jax.convert import torch_file
from pdae_jax.convert.architecture_facts import (
    Facts,
    from_architecture,
    from_hyper_parameters,
)
from pdae_jax.networks.architecture import Architecture
from pdae_jax.runtime.choices import listed
from pdae_jax.workdir import json_file

StateDict = dict[str, np.ndarray]
Entries = dict[str, Any]  # of a file, by their keys

# The networks of the PDAE authors' files: key -> network; "ema_" before it is the average.
PDAE_KEYS = {
    "denoise_fn": "unet",
    "encoder": "encoder",
    "decoder": "decoder",
    "latent_denoise_fn": "latent",
    "classifier": "classifier",
}
# Entries of a checkpoint beside its networks that are not needed to use them.
TRAINING = {
    "optimizer",
    "optimizers",
    "scaler",
    "scheduler",
    "optimizer_states",
    "lr_schedulers",
    "callbacks",
    "epoch",
    "loops",
    "native_amp_scaling_state",
    "hparams_name",
    "checkpoint_callback_best_model_path",
    "checkpoint_callback_best_model_score",
}


class Source(NamedTuple):
    """One file: its kind, and its contents that are used.

    networks: name -> state dict, names as those of `architecture_facts.architecture` and "alexnet",
    "lpips", "inception". weights: name -> "ema", "raw" or "as stored". ignored: lines, each on
    something that is knowingly not used and why. step: of its training, None where not stored.
    facts: of its architecture, beyond the shapes.
    """

    path: Path
    kind: str
    networks: dict[str, StateDict]
    weights: dict[str, str]
    ignored: list[str]
    step: int | None
    facts: list[Facts]


def read_source(
    path: str | os.PathLike, *, weights: str = "ema", class_label: int | None = None
) -> Source:
    """Recognises the file at `path` and finds its networks.

    weights: "ema" or "raw", where a file has both. class_label: the class that a class-conditional
    UNet is reduced to. Raises ValueError (also torch_file's) for a file of no known kind.
    """
    contents = torch_file.read(path)
    try:
        return _recognised(path, contents, weights, class_label)
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"{path}: like a known kind of checkpoint, but its contents make no sense "
            f"({type(error).__name__}: {str(error)[:80]})"
        ) from error


def _recognised(
    path: str | os.PathLike, contents: torch_file.Contents, weights: str, class_label: int | None
) -> Source:
    value = contents.value
    ignored: list[str] = []
    if contents.placeholders:
        ignored.append(
            f"objects of {len(contents.placeholders)} classes that were not loaded: "
            + listed(contents.placeholders)
        )
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: holds a {type(value).__name__}, not a dict of tensors")
    value = {key: entry for key, entry in value.items() if isinstance(key, str)}
    read = next((reader for recognises, reader in KINDS if recognises(value)), None)
    if read is None:
        raise ValueError(
            f"{path}: no checkpoint of a known kind: its keys are {listed(sorted(value)) or 'none'}"
        )
    found = read(Path(path), value, weights, ignored)
    networks = {name: _tensors(path, name, state) for name, state in found.networks.items()}
    if "unet" in networks and "label_emb.weight" in networks["unet"]:
        networks["unet"] = _of_class(path, networks["unet"], class_label, ignored)
    elif class_label is not None:
        raise ValueError(f"{path}: its model has no classes, so class {class_label} means nothing")
    return found._replace(networks=networks, ignored=ignored)


def _lightning(path: Path, value: Entries, weights: str, ignored: list[str]) -> Source:
    """Reads Diff-AE's diffusion model: model.*, ema_model.* and the buffer x_T in a state dict."""
    state = value["state_dict"]
    chosen = {"ema": "ema_model.", "raw": "model."}[weights]
    network = {
        key.removeprefix(chosen): tensor for key, tensor in state.items() if key.startswith(chosen)
    }
    if not network:
        raise ValueError(f"{path}: its state_dict has no {chosen}*")
    for key in state:
        if not key.startswith(("model.", "ema_model.", "x_T")):
            raise ValueError(
                f"{path}: {listed([key])} in its state_dict belongs to no diffusion "
                f"model; only Diff-AE's *_ddpm files are read, not its autoencoders"
            )
    ignored.append(
        {
            "ema": "model.*: its average, ema_model.*, is taken",
            "raw": "ema_model.*: the raw model.* is taken",
        }[weights]
    )
    if "x_T" in state:
        ignored.append("x_T: the noise of its sample pictures")
    ignored += _training(
        path, value, {"state_dict", "hyper_parameters", "global_step", "pytorch-lightning_version"}
    )
    given = value.get("hyper_parameters")
    given = given.entries if isinstance(given, torch_file.Placeholder) else given
    facts = [from_hyper_parameters(given)] if isinstance(given, Mapping) and given else []
    version = listed([value["pytorch-lightning_version"]])
    return Source(
        path,
        f"Diff-AE's diffusion model, PyTorch-Lightning {version}",
        {"unet": network},
        {"unet": weights},
        ignored,
        _whole(value.get("global_step")),
        facts,
    )


def _pdae(path: Path, value: Entries, weights: str, ignored: list[str]) -> Source:
    """Reads PDAE files, the authors' or exported ones: networks by name, perhaps with averages."""
    networks: dict[str, Any] = {}
    taken: dict[str, str] = {}
    for key, name in PDAE_KEYS.items():
        there = {"ema": f"ema_{key}" in value, "raw": key in value}
        if not any(there.values()):
            continue
        kind = weights
        if not there[weights]:
            if weights == "raw" and not value.keys() & PDAE_KEYS.keys():
                raise ValueError(f"{path}: has ema_{key} alone, no raw {key}; use --weights=ema")
            kind = "ema" if there["ema"] else "raw"
        networks[name] = value[f"ema_{key}" if kind == "ema" else key]
        taken[name] = kind if there["ema"] else "as stored"
        if all(there.values()):
            ignored.append(
                f"{key}: its average, ema_{key}, is taken"
                if kind == "ema"
                else f"ema_{key}: the raw {key} is taken"
            )
    if {"mean", "std"} <= value.keys():
        networks["statistics"] = {key: value[key] for key in ("mean", "std")}
        taken["statistics"] = "as stored"
    ignored += _training(
        path,
        value,
        {"step", "architecture", "mean", "std", *PDAE_KEYS, *(f"ema_{key}" for key in PDAE_KEYS)},
    )
    kinds = {
        "latent": "latent diffusion model",
        "decoder": "autoencoder",
        "unet": "diffusion model",
        "classifier": "classifier",
        "encoder": "encoder",
        "statistics": "statistics of z",
    }
    kind = "PDAE's " + next(text for name, text in kinds.items() if name in networks)
    facts: list[Facts] = []
    if isinstance(value.get("architecture"), dict):
        own = json_file.read_as(Architecture, path, value["architecture"])
        kind, facts = "a pdae_jax model", [from_architecture(own)]
    return Source(path, kind, networks, taken, ignored, _whole(value.get("step")), facts)


def _bare(path: Path, value: Entries, weights: str, ignored: list[str]) -> Source:
    """Reads a state dict by itself, of the network that its names show."""
    value = _without_module(value)
    kind, name, unused = next(row[1:] for row in BARE if row[0] in value)
    if name == "unet" and any(key.startswith("shift_") for key in value):
        kind, name = "PDAE's decoder, a bare state dict", "decoder"
    dropped = [
        key
        for key in value
        if unused and key.startswith(unused) or key.endswith("num_batches_tracked")
    ]
    if dropped:
        ignored.append(f"{listed(dropped)}: not part of what is computed")
    network = {key: tensor for key, tensor in value.items() if key not in dropped}
    return Source(path, kind, {name: network}, {name: "as stored"}, ignored, None, [])


# A name that only this network has, the file's kind, the network and the prefix of unused entries.
BARE: list[tuple[str, str, str, str | None]] = [
    ("input_blocks.0.0.weight", "guided-diffusion's UNet", "unet", None),
    ("encoder.0.weight", "PDAE's encoder, a bare state dict", "encoder", None),
    (
        "layers.0.linear_emb.weight",
        "PDAE's latent diffusion model, a bare state dict",
        "latent",
        None,
    ),
    ("features.0.weight", "torchvision's AlexNet", "alexnet", "classifier."),
    ("lin0.model.1.weight", "LPIPS v0.1's heads", "lpips", None),
    ("Conv2d_1a_3x3.conv.weight", "FID's Inception", "inception", "AuxLogits."),
]


def _is_bare(value: Entries) -> bool:
    names = {key.removeprefix("module.") for key in value}
    return any(row[0] in names for row in BARE)


KINDS: list[tuple[Callable[[Entries], bool], Callable[[Path, Entries, str, list[str]], Source]]] = [
    (lambda value: {"state_dict", "pytorch-lightning_version"} <= value.keys(), _lightning),
    (
        lambda value: (
            bool(value.keys() & {f"{ema}{key}" for key in PDAE_KEYS for ema in ("", "ema_")})
            or {"mean", "std"} <= value.keys()
        ),
        _pdae,
    ),
    (_is_bare, _bare),
]


def _training(path: Path, value: Entries, used: set[str]) -> list[str]:
    """Lines on what else a checkpoint holds; ValueError for tensors of no known use."""
    rest = [key for key in value if key not in used]
    strange = [key for key in rest if key not in TRAINING and _holds_tensors(value[key])]
    if strange:
        raise ValueError(
            f"{path}: {listed(strange)} hold tensors of no known use; known are "
            f"{', '.join(sorted(used))}"
        )
    return [f"{listed(rest)}: of its training"] if rest else []


def _holds_tensors(value: Any) -> bool:
    """Whether there is a tensor anywhere in nested containers, which may contain themselves."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, np.ndarray):
            return True
        if id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Mapping):
                stack += value.values()
            elif isinstance(value, (list, tuple)):
                stack += value
    return False


def _tensors(path: str | os.PathLike, name: str, state: Any) -> StateDict:
    """A network's state dict; ValueError where it is something else."""
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{path}: its {name} is no state dict but a {type(state).__name__}")
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, np.ndarray):
            raise ValueError(
                f"{path}: {listed([key])} of its {name} is no tensor that can be read, "
                f"but a {type(tensor).__name__}"
            )
    return _without_module(state)


def _without_module(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the prefix that torch's DataParallel gives to every key."""
    if all(isinstance(key, str) and key.startswith("module.") for key in state):
        return {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return dict(state)


def _of_class(
    path: str | os.PathLike, unet: StateDict, label: int | None, ignored: list[str]
) -> StateDict:
    """A class-conditional UNet reduced to one class, whose embedding is added to t's always."""
    unet = dict(unet)
    embedding = unet.pop("label_emb.weight")
    if label is None or not 0 <= label < len(embedding):
        raise ValueError(
            f"{path}: its UNet is conditioned on {len(embedding)} classes; choose the "
            f"one to keep with --class_label=0..{len(embedding) - 1}"
        )
    bias = unet["time_embed.2.bias"].astype(np.float32)
    unet["time_embed.2.bias"] = bias + embedding[label].astype(np.float32)
    ignored.append(f"label_emb: but for class {label}, which became part of time_embed.2.bias")
    return unet


def _whole(step: Any) -> int | None:
    """A step, which may be stored as a number or as a tensor of one."""
    if isinstance(step, np.ndarray) and step.size == 1:
        step = step.item()
    return step if isinstance(step, int) and not isinstance(step, bool) else None
