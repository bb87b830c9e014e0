"""PyTorch checkpoints to ours and back: strict, whole or not at all, with a receipt.

convert(["autoencoder/checkpoint.pt"], "models/bedroom128")
export("models/bedroom128", "bedroom128.pt")
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from pdae_jax.convert import infer, name_map
from pdae_jax.convert.infer import Shapes, Told
from pdae_jax.convert.torch_checkpoint import Source, StateDict, read_source
from pdae_jax.metrics import inception, lpips
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks
from pdae_jax.runtime.choices import listed
from pdae_jax.workdir import checkpoints as checkpoint

RECEIPT = "receipt.json"
# The networks of a model, as `sources` names them, and of the metrics.
MODEL = {
    "unet": name_map.unet,
    "decoder": name_map.decoder,
    "encoder": name_map.encoder,
    "latent": name_map.latent_mlp,
    "classifier": name_map.classifier,
    "statistics": name_map.statistics,
}
METRICS = {
    "alexnet": lpips.alexnet_shapes,
    "lpips": lpips.head_shapes,
    "inception": inception.shapes,
}
# The folder of a checkpoint that a group of parameters lives in; others have their own name.
FOLDER = {"encoder": "pdae", "gradient": "pdae"}


# CelebA's attributes in the order of its table, which the released classifiers were trained on.
CELEBA = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
    Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
    Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
    Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
    Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie
    Young""".split()


def convert(
    paths: Iterable[str | os.PathLike],
    output: str | os.PathLike,
    *,
    weights: str = "ema",
    config: str | os.PathLike | None = None,
    flags: Mapping[str, Any] | None = None,
    class_label: int | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Converts the files of one model (or of one metric) to a checkpoint; returns the receipt.

    output: a new folder, for `pdae_jax.load` and --config.pretrained; it appears whole or not at
    all. weights: "ema" or "raw". config: a config.yml (one beside a file is found by itself).
    flags: `Architecture` facts that no tensor shows: heads, head_channels, qkv_order, image_size,
    schedule. say: takes a line for each thing found or assumed. Raises ValueError, with nothing
    written, where anything does not fit.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is there already; choose another --output")
    found = [read_source(path, weights=weights, class_label=class_label) for path in paths]
    for source in found:
        say(describe(source))
    networks = merge(found)
    arch, assumed = None, []
    if networks.keys() & MODEL.keys():
        told = places(found, config, flags or {}, say)
        arch, assumed = model_architecture(networks, told)
        for line in assumed:
            say(line)
    groups = to_groups(networks, arch)
    attributes = (
        attribute_names(len(networks["classifier"]["bias"])) if "classifier" in networks else []
    )
    if attributes:
        say(
            f"classifier: taken to tell {attributes[0]} to {attributes[-1]}; other names go into "
            f"classifier/{checkpoint.ATTRIBUTES}"
        )
    receipt = {
        "sources": [receipt_of(source) for source in found],
        "weights": weights,
        "class_label": class_label,
        "architecture": arch and arch.to_dict(),
        "told": assumed,
        "attributes": attributes,
        "groups": {group: group_facts(tree) for group, tree in groups.items()},
        "versions": {
            name: version(name) for name in ("pdae_jax", "jax", "numpy", "orbax-checkpoint")
        },
        "date": time.strftime("%Y-%m-%d"),
    }
    write(output, arch, groups, receipt)
    for group, facts in receipt["groups"].items():
        say(
            f"{group}: {facts['arrays']} arrays, {facts['parameters']:,} parameters, norm "
            f"{facts['norm']:.6g}"
        )
    say(f"written: {output}")
    return receipt


def attribute_names(n: int) -> list[str]:
    """What a classifier of n outputs, which holds no names, is taken to tell: of 40, CelebA's."""
    return CELEBA if n == len(CELEBA) else [f"attribute_{k}" for k in range(n)]


def describe(source: Source) -> str:
    """What a file is, in a few lines."""
    lines = [
        f"{source.path}: {source.kind}"
        + (f", step {source.step:,}" if source.step is not None else "")
    ]
    for name, state in source.networks.items():
        size = sum(tensor.size for tensor in state.values())
        lines.append(f"  {name}: {len(state)} tensors, {size:,} numbers ({source.weights[name]})")
    lines += [f"  not used: {line}" for line in source.ignored]
    return "\n".join(lines)


def merge(found: list[Source]) -> dict[str, StateDict]:
    """All sources' networks as one model's. What is there twice must be the same twice."""
    networks: dict[str, StateDict] = {}
    whose: dict[str, Path] = {}
    for source in found:
        for name, state in source.networks.items():
            first = whose.setdefault(name, source.path)
            same(name, networks.setdefault(name, state), state, first, source.path)
    if "unet" in networks and "decoder" in networks:  # the decoder holds the diffusion model
        unet = networks.pop("unet")
        same(
            "diffusion model",
            {key: networks["decoder"].get(key) for key in unet},
            unet,
            whose["decoder"],
            whose["unet"],
        )
    return networks


def same(name: str, one: StateDict, other: StateDict, first: Path, second: Path) -> None:
    if one is not other and not (
        one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
    ):
        raise ValueError(
            f"the {name} of {second} is not that of {first}: they are of different "
            f"models or steps (the copies in a latent diffusion model's file are "
            f"enough by themselves)"
        )


def places(found: list[Source], config, flags: Mapping[str, Any], say) -> list[Told]:
    """Who tells what the shapes do not, best first."""
    configs = (
        [Path(config)]
        if config
        else sorted(
            {beside for source in found if (beside := source.path.parent / "config.yml").is_file()}
        )
    )
    told = [place for source in found for place in source.told]
    own = sum(place.where == infer.OWN for place in told)  # knows best
    for path in configs:
        try:
            place = infer.from_config(yaml.safe_load(path.read_text()))
        except infer.NotAConfig as error:
            if config:
                raise ValueError(f"{path}: {error}") from error
            say(f"{path} is not used: {error}")
            continue
        except (
            OSError,
            yaml.YAMLError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise ValueError(
                f"{path} cannot be read as a config: {listed(str(error).splitlines(), 1)}"
                f"; mend it or move it away"
            ) from error
        told.insert(own, place._replace(where=str(path), asked=bool(config)))
    if flags:
        told.append(Told("a flag", dict(flags), asked=True))
    return told


def model_architecture(networks: Mapping[str, StateDict], told) -> tuple[Architecture, list[str]]:
    if not networks.keys() & {"unet", "decoder"}:
        raise ValueError(
            f"only {', '.join(networks)} was given, which is no model by itself; give "
            f"the autoencoder's (or diffusion model's) file too"
        )
    try:
        return infer.architecture(
            {
                name: {key: tensor.shape for key, tensor in state.items()}
                for name, state in networks.items()
                if name in MODEL
            },
            told,
        )
    except (LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"a tensor that every such network has is missing or of another shape, or "
            f"a setting is of another kind: {error}"
        ) from error


def to_groups(networks: Mapping[str, StateDict], arch: Architecture | None) -> dict[str, dict]:
    """Every network as our parameters, {group: nested dict}, once all of them fit."""
    maps = {}
    for name, state in networks.items():
        maps[name] = MODEL[name](arch) if name in MODEL else name_map.plain(name, METRICS[name]())
        shapes = expected(name, arch, maps[name], state)
        name_map.fit(name, shapes, state, shapes)
        odd = [key for key, tensor in state.items() if not np.isfinite(tensor).all()]
        if odd:
            raise ValueError(
                f"the {name} has NaN or infinite numbers in {len(odd)} tensors, such "
                f"as {odd[0]}: the file is of a training that failed, or damaged"
            )
    groups: dict[str, dict] = {}
    for name, state in networks.items():
        groups |= name_map.to_params(maps[name], state)
    return groups


def expected(name: str, arch: Architecture | None, name_map, state: StateDict) -> Shapes:
    """The shapes that a network's tensors must have."""
    if name in METRICS:
        return METRICS[name]()
    if name == "statistics":
        return {"mean": (arch.z_size,), "std": (arch.z_size,)}
    if name == "classifier":
        return {"weight": (len(state["weight"]), arch.z_size), "bias": (len(state["weight"]),)}
    groups = {
        "unet": ("dpm",),
        "decoder": ("dpm", "gradient"),
        "encoder": ("encoder",),
        "latent": ("latent",),
    }[name]
    return name_map.torch_shapes(
        name_map, jax.eval_shape(lambda: Networks(arch).init(jax.random.key(0), groups))
    )


def group_facts(tree) -> dict:
    leaves = jax.tree.leaves(tree)
    return {
        "arrays": len(leaves),
        "parameters": int(sum(leaf.size for leaf in leaves)),
        "norm": float(np.sqrt(sum(np.vdot(leaf, leaf).astype(np.float64) for leaf in leaves))),
    }


def receipt_of(source: Source) -> dict:
    return {
        "file": str(source.path.absolute()),
        "sha256": sha256(source.path),
        "bytes": source.path.stat().st_size,
        "kind": source.kind,
        "step": source.step,
        "weights": source.weights,
        "ignored": source.ignored,
        "networks": {
            name: {
                "tensors": len(state),
                "numbers": int(sum(tensor.size for tensor in state.values())),
            }
            for name, state in source.networks.items()
        },
    }


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(output: Path, arch: Architecture | None, groups: dict, receipt: dict) -> None:
    """The checkpoint in a folder beside, then moved to its name: whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        partial.mkdir()
        if arch:
            checkpoint.write_architecture(partial, arch)
        folders: dict[str, dict] = {}
        for group, tree in groups.items():
            folders.setdefault(FOLDER.get(group, group), {})[group] = tree
        for folder, ema in folders.items():
            with checkpoint.Checkpoints(partial / folder) as checkpoints:
                checkpoints.save(0, ema)
        if receipt["attributes"]:
            checkpoint.write_attributes(partial, receipt["attributes"])
        (partial / RECEIPT).write_text(json.dumps(receipt, indent=1, allow_nan=False) + "\n")
        if output.exists():
            output.rmdir()  # empty, as `convert` saw
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def state_dicts(workdir: str | os.PathLike) -> dict[str, StateDict]:
    """A model of ours as state dicts in the original names, {network: state dict}."""
    arch, groups = checkpoint.read_architecture(workdir), checkpoint.read_weights(workdir)
    wanted = ["decoder" if "gradient" in groups else "unet"]
    wanted += [name for name in ("encoder", "latent", "classifier", "statistics") if name in groups]
    return {name: name_map.to_torch(MODEL[name](arch), groups) for name in wanted}


def export(workdir: str | os.PathLike, path: str | os.PathLike) -> None:
    """Writes a model of ours as one PyTorch file in the layout of the PDAE authors'.

    It has ema_denoise_fn, or ema_decoder and ema_encoder, and what else the model holds; beside
    them its "architecture", by which `convert` brings it back exactly. Needs PyTorch.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "writing a PyTorch file needs PyTorch: pip install 'pdae_jax[convert]'"
        ) from error
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} is there already; choose another name")
    keys = {
        "unet": "ema_denoise_fn",
        "decoder": "ema_decoder",
        "encoder": "ema_encoder",
        "latent": "ema_latent_denoise_fn",
        "classifier": "ema_classifier",
    }
    value: dict[str, Any] = {"architecture": checkpoint.read_architecture(workdir).to_dict()}
    for name, state in state_dicts(workdir).items():
        tensors = {key: torch.from_numpy(array.copy()) for key, array in state.items()}
        value |= tensors if name == "statistics" else {keys[name]: tensors}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        torch.save(value, partial)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
