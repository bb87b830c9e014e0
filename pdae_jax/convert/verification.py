"""Verifies a conversion: the original in PyTorch and pdae_jax on the same inputs."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from pdae_jax.convert import candidates, name_map
from pdae_jax.convert.architecture_facts import Told
from pdae_jax.convert.conversion import MODEL, in_guided_names, merge, sha256
from pdae_jax.convert.dialects import GUIDED
from pdae_jax.convert.torch_checkpoint import StateDict, read_source
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks, Params
from pdae_jax.workdir.workdir import Workdir

TOLERANCE = 1e-5  # relative to the largest number of an output, in float32


class Row(NamedTuple):
    """The worst difference within one group of blocks.

    blocks: their number. worst: the block with the largest relative difference. largest, relative:
    its difference, and that relative to the largest number of the block's output.
    """

    group: str
    blocks: int
    worst: str
    largest: float
    relative: float

    @property
    def passed(self) -> bool:
        return self.relative <= TOLERANCE


def verify(
    model: str | os.PathLike,
    paths: Iterable[str | os.PathLike] | None = None,
    *,
    say: Callable[[str], object] = print,
) -> bool:
    """Compares a converted workdir with the files that it was converted from; True when it passes.

    The original is rebuilt with the converted model's architecture, so that a pass proves tensors
    and code, not the facts that no tensor shows: those that nothing proves are named.

    paths: the files, None for those that its receipt names. Raises ValueError where they are not
    the ones converted. Needs PyTorch.
    """
    workdir = Workdir(model)
    receipt = workdir.receipt
    sources = receipt["sources"]
    files = [Path(path).expanduser() for path in paths or [source["file"] for source in sources]]
    if len(files) != len(sources):
        raise ValueError(
            f"{workdir} was converted from {len(sources)} files, {len(files)} are given"
        )
    converted = {source["sha256"] for source in sources}
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path}: no such file; give the sources with --source=FILE,FILE")
        if sha256(path) not in converted:
            raise ValueError(
                f"{path} is not the file that was converted (another sha256 than in the receipt)"
            )
    read = [
        read_source(path, weights=receipt["weights"], class_label=receipt["class_label"])
        for path in files
    ]
    networks, arch = merge(read), workdir.architecture
    if "unet" in networks:
        dialect = next((one.dialect for one in read if one.dialect is not GUIDED), GUIDED)
        networks["unet"] = in_guided_names(arch, networks["unet"], dialect)
    rows = compare(arch, workdir.weights(), networks)
    say(table(rows))
    passed = all(row.passed for row in rows)
    odd = [row.worst for row in rows if not np.isfinite(row.relative)]
    if odd:
        say(f"FAILED: {odd[0]} gives NaN or infinite numbers, here or in the original")
    else:
        say(
            f"{'passed' if passed else 'FAILED'}: largest relative error "
            f"{max(row.relative for row in rows):.2g}, limit {TOLERANCE:g} in float32"
        )
    doubts = unproven(workdir.architecture, [Told.parse(line) for line in receipt["told"]])
    if passed and doubts:
        say(doubts)
    return passed


def unproven(arch: Architecture, told: Iterable[Told]) -> str:
    """Lines on the facts that a comparison with a twin cannot prove; "" where all are proven.

    Left out is what changes no output: dropout, settings of heads that are not in use, and the
    order of the channels of what is proven to be one head.
    """
    told = list(told)
    idle = {"dropout", "heads" if arch.head_channels else "head_channels"}
    heads = candidates.shown_by(arch, "heads")
    if any(one.field == heads and one.proven for one in told):
        idle |= candidates.FACTS.keys() - set(candidates.facts_of(arch))
    if not any("qkv" in key for key in name_map.encoder(arch)):
        idle.add("encoder_heads")
    doubtful = [one for one in told if one.field not in idle and not one.proven]
    if not doubtful:
        return ""
    guessed = [f"{one.field} = {one.value}" for one in doubtful if one.assumed]
    given = [f"{one.field} = {one.value} ({one.origin})" for one in doubtful if not one.assumed]
    lines = ["not proven, for no tensor shows it, and the original was run with the same:"]
    lines += [f"  assumed: {', '.join(guessed)}"] if guessed else []
    lines += [f"  told: {', '.join(given)}"] if given else []
    fields = {field for fields in candidates.FACTS.values() for field in fields}
    measurable = [one.field for one in doubtful if one.field in fields]
    if measurable:
        lines.append(
            f"  pictures like those that it was trained on prove {', '.join(measurable)}: convert "
            f"with --images=PATH"
        )
    return "\n".join(lines)


def compare(
    arch: Architecture,
    params: Params,
    networks: Mapping[str, StateDict],
    seed: int = 0,
    batch: int = 2,
) -> list[Row]:
    """Runs both models on the same random inputs: a row a group of blocks, final outputs last."""
    try:
        from pdae_jax.convert import torch_twin
    except ImportError as error:
        raise ImportError("verifying needs PyTorch: pip install 'pdae_jax[convert]'") from error
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, *arch.image_shape), np.float32)
    z = rng.standard_normal((batch, arch.z_size), np.float32)
    t = np.linspace(arch.T // 5, arch.T - 1, batch).astype(np.int32)
    read = Networks(arch).schedule.given_to(arch.reads)
    t = t if read is None else read[t].astype(np.float32)
    with jax.default_matmul_precision("highest"):
        converted = run_converted(arch, params, networks, x, t, z)
    originals = {
        name: run_twin(torch_twin.load(name, arch, state), name, blocks(arch, name), x, t, z)
        for name, state in networks.items()
        if name in torch_twin.NETWORKS
    }
    rows: list[Row] = []
    for name, outputs in originals.items():
        groups: dict[str, list[tuple[float, float, str]]] = {}
        for block, original in outputs.items():
            difference = float(np.abs(converted[name][block] - original).max())  # NaN of NaN
            scale = float(np.abs(original).max()) or 1.0
            groups.setdefault(group_of(name, block), []).append(
                (difference / scale, difference, block)
            )
        for group, found in groups.items():
            # One that is not a number is the worst, which no order puts anywhere.
            odd = [one for one in found if not np.isfinite(one[0])]
            relative, difference, worst = odd[0] if odd else max(found)
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
    """The row that a block of a network belongs to."""
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
    """Each module of the original whose output is compared -> (group, *path) in pdae_jax.

    Read off the name map: residual blocks, attention, and single layers.
    """
    group = {"encoder": "encoder", "latent": "latent"}.get(name, "dpm")
    found: dict[str, tuple[str, ...]] = (
        {} if name == "encoder" else {"time_embed": (group, "time_embedding")}
    )
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


def run_converted(
    arch: Architecture,
    params: Params,
    wanted: Iterable[str],
    x: np.ndarray,
    t: np.ndarray,
    z: np.ndarray,
) -> dict[str, dict[str, np.ndarray]]:
    """{network: {module of the original: output in pdae_jax}}, for the networks wanted."""
    net = Networks(arch)
    keep: dict[str, Any] = {"capture_intermediates": True, "mutable": ["intermediates"]}

    def run(params: Params, x: jax.Array, t: jax.Array, z: jax.Array) -> tuple[Any, Any]:
        kept: dict[str, Any] = {group: {} for group in params}
        ends: dict[str, jax.Array] = {}
        embedding = features = None

        def apply(module: Any, group: str, *args: Any, **kwargs: Any) -> Any:
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
    outputs: dict[str, dict[str, np.ndarray]] = {}
    for name in wanted:
        outputs[name] = {end: ends[end] for end in END_OF.get(name, ())}
        for module, (group, *path) in (blocks(arch, name) if name in END_OF else {}).items():
            node = kept[group]
            for part in path:
                node = node[part]
            outputs[name][module] = node["__call__"][0]
    return outputs


def run_twin(
    network: Any,
    name: str,
    modules: Iterable[str],
    x: np.ndarray,
    t: np.ndarray,
    z: np.ndarray,
) -> dict[str, np.ndarray]:
    """{module of the original: its output, channels last}, and the final outputs by their names."""
    import torch

    outputs: dict[str, np.ndarray] = {}

    def keep(module_name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            outputs[module_name] = channels_last(output)

        return hook

    named = dict(network.named_modules())
    for module in modules:
        named[module].register_forward_hook(keep(module))
    image = torch.tensor(np.moveaxis(x, -1, 1).copy())
    time, code = torch.tensor(t), torch.tensor(z)
    with torch.inference_mode():
        end = {
            "unet": lambda: network(image, time)[:1],
            "decoder": lambda: network(image, time, code),
            "encoder": lambda: (network(image),),
            "latent": lambda: (network(code, time),),
        }[name]()
    return outputs | {label: channels_last(value) for label, value in zip(END_OF[name], end)}


def channels_last(tensor: Any) -> np.ndarray:
    """A PyTorch tensor as a NumPy array, maps [B, H, W, C]."""
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
