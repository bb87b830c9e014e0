"""Recognises the kind of a PyTorch file by its content, and finds its networks' state dicts."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from pdae_jax.convert import model_folder, near_misses, torch_file
from pdae_jax.convert.architecture_facts import (
    Facts,
    from_architecture,
    from_hyper_parameters,
)
from pdae_jax.convert.dialects import DIALECTS, DIFFUSERS, EDM, GUIDED, MONAI, MONAI_JOINED, Dialect
from pdae_jax.convert.placeholder import Placeholder, state_dict_of
from pdae_jax.convert.project_config import from_diffusers, from_scheduler
from pdae_jax.convert.wrappers import (
    Entries,
    layers,
    of_list,
    unwrapped,
    without_shared_prefix,
)
from pdae_jax.networks.architecture import Architecture
from pdae_jax.runtime.choices import FEW, listed
from pdae_jax.workdir import json_file

StateDict = dict[str, np.ndarray]

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
    facts: of its architecture, beyond the shapes. dialect: of its UNet's names. configs: of the
    project that it came from, by `model_folder.CONFIGS`, as `export` writes them again. attributes:
    of the classifier's outputs, where the file names them.
    """

    path: Path
    kind: str
    networks: dict[str, StateDict]
    weights: dict[str, str]
    ignored: list[str]
    step: int | None
    facts: list[Facts]
    dialect: Dialect = GUIDED
    configs: dict[str, Any] = {}
    attributes: list[str] = []


def read_source(
    path: str | os.PathLike, *, weights: str = "ema", class_label: int | None = None
) -> Source:
    """Recognises the file or folder at `path` and finds its networks.

    weights: "ema" or "raw", where a file has both. class_label: the class that a class-conditional
    UNet is reduced to. Raises ValueError (also torch_file's) for a file of no known kind.
    """
    found = model_folder.find(Path(path).expanduser(), weights)
    path, contents = found.weights, read_file(found.weights)
    try:
        source = _recognised(path, contents, weights, class_label)
        return _configured(source, found)
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"{path}: like a known kind of checkpoint, but its contents make no sense "
            f"({type(error).__name__}: {str(error)[:80]})"
        ) from error


def read_file(path: Path) -> torch_file.Contents:
    """The contents of a file, PyTorch's or safetensors, neither with PyTorch."""
    torch_file.check_fetched(path)
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix != ".safetensors" and not (start[8:] == b"{" and start[5:8] == b"\0\0\0"):
        return torch_file.read(path)
    try:
        return torch_file.Contents(dict(safetensors.numpy.load_file(path)), ())
    except (safetensors.SafetensorError, TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: no readable safetensors file ({str(error)[:80]}): fetch it again"
        ) from error


def _configured(source: Source, found: model_folder.Found) -> Source:
    """A source with what the configs beside its file say."""
    if found.note:
        source.ignored.append(found.note)
    beside = model_folder.settings_beside(found.weights)
    if beside.is_file():
        own = json_file.read_as(Architecture, beside, json_file.read(beside))
        return source._replace(facts=[*source.facts, from_architecture(own)])
    if found.config is None or source.dialect is not DIFFUSERS:
        return source
    configs = {"network": model_folder.read_json(found.config)}
    facts = [from_diffusers(configs["network"], str(found.config))]
    if found.scheduler is not None:
        configs["scheduler"] = model_folder.read_json(found.scheduler)
        facts.append(from_scheduler(configs["scheduler"], str(found.scheduler)))
    return source._replace(facts=source.facts + facts, configs=configs)


def _recognised(
    path: str | os.PathLike, contents: torch_file.Contents, weights: str, class_label: int | None
) -> Source:
    value, ignored = contents.value, []
    if contents.placeholders:
        ignored.append(
            f"objects of {len(contents.placeholders)} names, nothing of which was loaded or run: "
            + listed(contents.placeholders, FEW)
        )
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        value = of_list(value, weights, ignored)
    facts: list[Facts] = []
    if isinstance(value, Mapping) and isinstance(value.get("ema"), Placeholder):
        facts, value = _of_edm(path, value["ema"], ignored)
    if isinstance(value, Placeholder):
        raise ValueError(
            f"{path}: a pickled {listed([value.class_name])}, which only its own code can use: "
            f"save its tensors, torch.save(model.state_dict(), 'model.pt'), and convert that"
        )
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: holds a {type(value).__name__}, not a dict of tensors")
    value = {key: entry for key, entry in value.items() if isinstance(key, str)}
    if not is_known(value):
        value = unwrapped(value, is_known, weights, ignored)
    read = next((reader for recognises, reader in KINDS if recognises(value)), None)
    if read is None:
        for layer in layers(value):
            near_misses.check(str(path), layer)
        raise ValueError(
            f"{path}: no checkpoint of a known kind: its keys are {listed(sorted(value)) or 'none'}"
        )
    found = read(Path(path), value, weights, ignored)
    networks = {name: _tensors(path, name, state) for name, state in found.networks.items()}
    classes = f"{found.dialect.classes}.weight"
    if "unet" in networks and classes in networks["unet"]:
        networks["unet"] = _of_class(path, networks["unet"], class_label, found.dialect, ignored)
    elif class_label is not None:
        raise ValueError(f"{path}: its model has no classes, so class {class_label} means nothing")
    return found._replace(networks=networks, ignored=ignored, facts=[*facts, *found.facts])


def is_known(value: Entries) -> bool:
    """Whether there is a reader for a file's entries."""
    return any(recognises(value) for recognises, _ in KINDS)


def _of_edm(
    path: str | os.PathLike, network: Placeholder, ignored: list[str]
) -> tuple[list[Facts], StateDict]:
    """The network of EDM's pickle, of which the source code inside is neither kept nor run."""
    name, given = network.class_name, network.init_kwargs
    if name != "EDMPrecond":
        raise ValueError(
            f"{path}: EDM's pickle of {listed([name])}: only EDMPrecond comes in, with its ADM net"
        )
    if given.get("sigma_data", 0.5) != 0.5:
        raise ValueError(
            f"{path}: sigma_data = {listed([given['sigma_data']])} is not supported, only 0.5"
        )
    state = {key.removeprefix("model."): tensor for key, tensor in state_dict_of(network).items()}
    ignored.append("what is beside ema in the pickle, and the source code in it")
    facts = [Facts(f"{path}", {"dropout": float(given.get("dropout", 0.1))})]
    return facts, state


def _lightning(path: Path, value: Entries, weights: str, ignored: list[str]) -> Source:
    """Reads Diff-AE's diffusion model: model.*, ema_model.* and the buffer x_T in a state dict."""
    state = value["state_dict"]
    chosen = {"ema": "ema_model.", "raw": "model."}[weights]
    network = {
        key.removeprefix(chosen): tensor for key, tensor in state.items() if key.startswith(chosen)
    }
    if not network:
        raise ValueError(f"{path}: its state_dict has no {chosen}*")
    if any(key.startswith("encoder.") for key in network):
        raise ValueError(
            f"{path}: Diff-AE's autoencoder: every block of its UNet reads its encoder's code, "
            f"so that there is no diffusion model in it for PDAE, which is another method; give "
            f"one of its *_ddpm files, or any other diffusion model"
        )
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
        {
            "step",
            "architecture",
            "attributes",
            "mean",
            "std",
            *PDAE_KEYS,
            *(f"ema_{key}" for key in PDAE_KEYS),
        },
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
    names = value.get("attributes")
    names = [str(name) for name in names] if isinstance(names, list) else []
    step = _whole(value.get("step"))
    return Source(path, kind, networks, taken, ignored, step, facts, attributes=names)


def _bare(path: Path, value: Entries, weights: str, ignored: list[str]) -> Source:
    """Reads a state dict by itself, of the network that its names show."""
    value = without_shared_prefix(value)
    near_misses.check(str(path), value)
    dialect = next((one for one in DIALECTS.values() if one.known_by in value), GUIDED)
    if dialect is not GUIDED:
        return _foreign(path, value, dialect, ignored)
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
    facts = of_openais_name(path.name) if name == "unet" else []
    return Source(path, kind, {name: network}, {name: "as stored"}, ignored, None, facts)


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


def of_openais_name(name: str) -> list[Facts]:
    """Facts of OpenAI's EDM and consistency models, whose tensors are as of any guided-diffusion.

    By the published names: edm_cat256_ema.pt, cd_imagenet64_lpips.pt, ct_bedroom256.pt and so on.
    """
    found = re.fullmatch(r"(edm|cd|ct)_(cat|bedroom|imagenet)(64|256)\w*\.pt", name)
    if not found:
        return []
    values = {
        "predicts": "edm" if found[1] == "edm" else "consistency",
        "reads": "250_log_sigma",
        "schedule": "karras",
        "head_channels": 64,
        "qkv_order": "new",
        "image_size": int(found[3]),
    }
    return [Facts(f"the name of OpenAI's {name}", values, hint=True)]


def _foreign(path: Path, value: Entries, dialect: Dialect, ignored: list[str]) -> Source:
    """Reads another project's UNet, a bare state dict."""
    old = OLD_NAMES.get(dialect.project, [])
    network = {_renamed(key, old): tensor for key, tensor in value.items()}
    if dialect is MONAI and any(".attn.qkv." in key for key in network):
        dialect = MONAI_JOINED
    for key in [key for key in network if key.startswith(UNUSED.get(dialect.project, ("\0",)))]:
        ignored.append(f"{key}: not part of what is computed")
        del network[key]
    kind = f"{dialect.project}'s UNet"
    return Source(path, kind, {"unet": network}, {"unet": "as stored"}, ignored, None, [], dialect)


# Names of earlier versions of a project, as patterns, and what they are now.
OLD_NAMES: dict[str, list[tuple[str, str]]] = {
    "diffusers": [
        (r"\.(q)uery\.|\.(k)ey\.|\.(v)alue\.", r".to_\1\2\3."),
        (r"\.proj_attn\.", ".to_out.0."),
    ],
    "DDIM": [(r"\.conv_shortcut\.", ".nin_shortcut.")],
    "MONAI": [
        (r"\b(attentions\.\d+|attention)\.(to_[qkv])\.", r"\1.attn.\2."),
        (r"\b(attentions\.\d+|attention)\.proj_attn\.", r"\1.attn.out_proj."),
    ],
}
UNUSED = {"EDM": ("map_augment.",)}


def _renamed(key: str, patterns: Sequence[tuple[str, str]]) -> str:
    for pattern, name in patterns:
        key = re.sub(pattern, name, key)
    return key


def _is_bare(value: Entries) -> bool:
    marks = {row[0] for row in BARE} | {one.known_by for one in DIALECTS.values()}
    return bool(without_shared_prefix(value).keys() & marks)


def _is_diffae(value: Entries) -> bool:
    """Whether a file is of Diff-AE's Lightning module, which keeps its average beside it."""
    state = value.get("state_dict")
    named = isinstance(state, Mapping) and any(str(key).startswith("ema_model.") for key in state)
    return named and "pytorch-lightning_version" in value


KINDS: list[tuple[Callable[[Entries], bool], Callable[[Path, Entries, str, list[str]], Source]]] = [
    (_is_diffae, _lightning),
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
        counter = isinstance(key, str) and key.endswith("num_batches_tracked")
        if isinstance(tensor, np.ndarray) and tensor.dtype.kind in "biu" and not counter:
            raise ValueError(
                f"{path}: {listed([key])} of its {name} is of {tensor.dtype}, as of a quantized "
                f"model; give the weights before they were quantized"
            )
        if not isinstance(key, str) or not isinstance(tensor, np.ndarray):
            raise ValueError(
                f"{path}: {listed([key])} of its {name} is no tensor that can be read, "
                f"but a {type(tensor).__name__}"
            )
    return without_shared_prefix(state)


def _of_class(
    path: str | os.PathLike,
    unet: StateDict,
    label: int | None,
    dialect: Dialect,
    ignored: list[str],
) -> StateDict:
    """A class-conditional UNet reduced to one class, whose embedding is added to t's always."""
    unet, name = dict(unet), f"{dialect.time[1]}.bias"
    embedding = unet.pop(f"{dialect.classes}.weight")
    embedding = embedding.T if dialect is EDM else embedding  # a linear layer of one-hot classes
    if label is None or not 0 <= label < len(embedding):
        raise ValueError(
            f"{path}: its UNet is conditioned on {len(embedding)} classes; choose the "
            f"one to keep with --class_label=0..{len(embedding) - 1}"
        )
    unet[name] = unet[name].astype(np.float32) + embedding[label].astype(np.float32)
    ignored.append(f"{dialect.classes}: but for class {label}, which became part of {name}")
    return unet


def _whole(step: Any) -> int | None:
    """A step, which may be stored as a number or as a tensor of one."""
    if isinstance(step, np.ndarray) and step.size == 1:
        step = step.item()
    return step if isinstance(step, int) and not isinstance(step, bool) else None
