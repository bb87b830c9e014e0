"""Proof that a conversion is right: the original in PyTorch and ours, on the same inputs."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from pdae_jax.convert.conversion import MODEL, RECEIPT, merge, sha256
from pdae_jax.convert.torch_checkpoint import StateDict, read_source
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks
from pdae_jax.workdir import checkpoints as checkpoint

TOLERANCE = 1e-5  # relative to the largest number of an output, in float32


class Row(NamedTuple):
    """The worst difference within one group of blocks: of what, in which block, how large."""

    group: str
    blocks: int
    worst: str
    largest: float  # difference
    relative: float  # to the largest number of that block's output

    @property
    def passed(self) -> bool:
        return self.relative <= TOLERANCE


def verify(workdir: str | os.PathLike, paths=None, *, say: Callable[[str], None] = print) -> bool:
    """Compares a converted directory with the files it was made from; True when it passes.

    paths: the files, None for those that its receipt names. Raises ValueError where they are not
    the ones converted. Needs PyTorch.
    """
    receipt_path = Path(workdir) / RECEIPT
    if not receipt_path.is_file():
        raise ValueError(f"{workdir} has no {RECEIPT}: it was not converted from PyTorch files")
    receipt = json.loads(receipt_path.read_text())
    made_from = receipt["sources"]
    paths = [Path(p) for p in paths or [source["file"] for source in made_from]]
    if len(paths) != len(made_from):
        raise ValueError(f"{workdir} was made from {len(made_from)} files, {len(paths)} are given")
    there = {source["sha256"] for source in made_from}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: no such file; give the sources with --source=FILE,FILE")
        if sha256(path) not in there:
            raise ValueError(
                f"{path} is not the file that was converted (another sha256 than in {RECEIPT})"
            )
    networks = merge(
        [
            read_source(path, weights=receipt["weights"], class_label=receipt["class_label"])
            for path in paths
        ]
    )
    arch = checkpoint.read_architecture(workdir)
    rows = compare(arch, checkpoint.read_weights(workdir), networks)
    say(table(rows))
    passed = all(row.passed for row in rows)
    say(
        f"{'passed' if passed else 'FAILED'}: largest relative error "
        f"{max(row.relative for row in rows):.2g}, limit {TOLERANCE:g} in float32"
    )
    return passed


def compare(
    arch: Architecture,
    params: dict,
    networks: Mapping[str, StateDict],
    seed: int = 0,
    batch: int = 2,
) -> list[Row]:
    """Runs original and ours on the same random inputs: a row a group of blocks, ends last."""
    try:
        from pdae_jax.convert import torch_twin
    except ImportError as error:
        raise ImportError("verifying needs PyTorch: pip install 'pdae_jax[convert]'") from error
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, *arch.image_shape), np.float32)
    z = rng.standard_normal((batch, arch.z_size), np.float32)
    t = np.linspace(arch.T // 5, arch.T - 1, batch).astype(np.int32)
    with jax.default_matmul_precision("highest"):
        ours = run_ours(arch, params, networks, x, t, z)
    theirs = {
        name: run_twin(torch_twin.load(name, arch, state), name, blocks(arch, name), x, t, z)
        for name, state in networks.items()
        if name in torch_twin.NETWORKS
    }
    rows = []
    for name, outputs in theirs.items():
        groups: dict[str, list] = {}
        for block, original in outputs.items():
            here = ours[name][block]
            difference = float(np.abs(here - original).max())
            scale = float(np.abs(original).max()) or 1.0
            groups.setdefault(group_of(name, block), []).append(
                (difference / scale, difference, block)
            )
        for group, found in groups.items():
            relative, difference, worst = max(found)
            rows.append(Row(group, len(found), worst, difference, relative))
    return sorted(rows, key=lambda row: row.group in ENDS)


ENDS = ("eps", "gradient", "z", "eps of z_t")
END_OF = {
    "unet": ("eps",),
    "decoder": ("eps", "gradient"),
    "encoder": ("z",),
    "latent": ("eps of z_t",),
}


def group_of(name: str, block: str) -> str:
    if block in ENDS:
        return block
    of = {"encoder": "encoder", "latent": "latent"}.get(name) or (
        "G" if block.startswith(("shift_", "label_emb")) else "eps_theta"
    )
    part = next(
        (
            text
            for start, text in (
                ("time_embed", "time embedding"),
                ("label_emb", "z embedding"),
                ("input_blocks", "way down"),
                ("middle", "middle"),
                ("output", "way up"),
                ("encoder", "layers"),
                ("layers", "layers"),
            )
            if block.removeprefix("shift_").startswith(start)
        ),
        block,
    )
    return f"{of}: {part}"


def blocks(arch: Architecture, name: str) -> dict[str, tuple[str, ...]]:
    """Each module of the original whose output is compared -> (group, *path) of ours.

    Read off the name map: residual blocks, attention, and what stands alone.
    """
    group = {"encoder": "encoder", "latent": "latent"}.get(name, "dpm")
    found = {} if name == "encoder" else {"time_embed": (group, "time_embedding")}
    for key, entry in MODEL[name](arch).items():
        for inner in (".in_layers.0.weight", ".qkv.weight"):
            if key.endswith(inner):
                found[key.removesuffix(inner)] = entry.path[:-2]
        alone = re.fullmatch(
            r"(input_blocks\.0\.0|label_emb|encoder\.\d+|layers\.\d+\.norm)"
            r"\.weight",
            key,
        )
        if alone:
            found[alone[1]] = entry.path[:-1]
    return found


def run_ours(arch: Architecture, params: dict, wanted, x, t, z) -> dict[str, dict]:
    """{network: {module of the original: output of ours}}, for the networks wanted."""
    net = Networks(arch)
    keep = {"capture_intermediates": True, "mutable": ["intermediates"]}

    def run(params, x, t, z):
        kept, ends = {group: {} for group in params}, {}

        def apply(module, group, *args, **kwargs):
            out, more = module.apply({"params": params[group]}, *args, **kwargs, **keep)
            kept[group] |= more.get("intermediates", {})
            return out

        if "dpm" in params:
            embedding, projection = apply(net.unet, "dpm", t, method="time")
            features = apply(net.unet, "dpm", x, projection, method="features")
            ends["eps"] = apply(net.unet, "dpm", features, projection, method="output")
        if "gradient" in params:
            time = apply(net.estimator, "gradient", embedding, method="time")
            code = apply(net.estimator, "gradient", z, method="code")
            ends["gradient"] = apply(net.estimator, "gradient", features, time, code)
        if "encoder" in params:
            ends["z"] = apply(net.encoder, "encoder", x)
        if "latent" in params:
            ends["eps of z_t"] = apply(net.latent, "latent", z, t)
        return kept, ends

    groups = [g for g in ("dpm", "gradient", "encoder", "latent") if g in params]
    kept, ends = jax.device_get(jax.jit(run)({g: params[g] for g in groups}, x, t, z))
    outputs = {}
    for name in wanted:
        outputs[name] = {end: ends[end] for end in END_OF.get(name, ())}
        for module, (group, *path) in (blocks(arch, name) if name in END_OF else {}).items():
            node = kept[group]
            for part in path:
                node = node[part]
            outputs[name][module] = node["__call__"][0]
    return outputs


def run_twin(network, name: str, modules, x, t, z) -> dict[str, np.ndarray]:
    """{module of the original: its output, channels last}, and the ends by their names."""
    import torch

    outputs = {}

    def keep(module_name: str):
        def hook(module, inputs, output):
            outputs[module_name] = channels_last(output)

        return hook

    named = dict(network.named_modules())
    for module in modules:
        named[module].register_forward_hook(keep(module))
    image, t, z = torch.tensor(np.moveaxis(x, -1, 1).copy()), torch.tensor(t), torch.tensor(z)
    with torch.inference_mode():
        end = {
            "unet": lambda: network(image, t)[:1],
            "decoder": lambda: network(image, t, z),
            "encoder": lambda: (network(image),),
            "latent": lambda: (network(z, t),),
        }[name]()
    return outputs | {label: channels_last(value) for label, value in zip(END_OF[name], end)}


def channels_last(tensor) -> np.ndarray:
    array = tensor.numpy()
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def table(rows: list[Row]) -> str:
    """The rows as text, one a line."""
    lines = [("", "blocks", "largest", "relative", "worst in")]
    lines += [
        (row.group, str(row.blocks), f"{row.largest:.2g}", f"{row.relative:.2g}", row.worst)
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )
