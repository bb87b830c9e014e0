"""Imports PyTorch checkpoints and exports models back: strict, all or nothing, with a receipt.

convert(["autoencoder/checkpoint.pt"], "models/bedroom128")
export("models/bedroom128", "bedroom128.pt")
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from pdae_jax.convert import (
    architecture_facts,
    candidates,
    model_folder,
    name_map,
    project_config,
)
from pdae_jax.convert.architecture_facts import NOTHING, Facts, Shapes, Told
from pdae_jax.convert.dialects import DIALECTS, DIFFUSERS, GUIDED, Dialect
from pdae_jax.convert.name_map import Names
from pdae_jax.convert.torch_checkpoint import Source, StateDict, read_source
from pdae_jax.metrics import inception, lpips
from pdae_jax.model import Model
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import STUDENTS, Networks
from pdae_jax.runtime import atomic
from pdae_jax.runtime.choices import listed, printable
from pdae_jax.workdir.workdir import Workdir

# The networks of a model, as `torch_checkpoint` names them, and those of the metrics.
MODEL: dict[str, Callable[..., Names]] = {
    "unet": name_map.unet,
    "decoder": name_map.decoder,
    "encoder": name_map.encoder,
    "latent": name_map.latent_mlp,
    "classifier": name_map.classifier,
    "statistics": name_map.statistics,
}
METRICS: dict[str, Callable[[], Shapes]] = {
    "alexnet": lpips.alexnet_shapes,
    "lpips": lpips.head_shapes,
    "inception": inception.shapes,
}
# The parameter groups that each network fills.
GROUPS = {
    "unet": ("dpm",),
    "decoder": ("dpm", "gradient"),
    "encoder": ("encoder",),
    "latent": ("latent",),
}

# Projects whose configs are not the PDAE authors'.
CONFIGS: dict[str, Callable[[Any, str], Facts]] = {
    "MONAI": project_config.from_monai,
    "DDIM": project_config.from_ddim,
    "diffusers": project_config.from_diffusers,
}

# CelebA's attributes in the order of its table, which the released classifiers were trained on.
CELEBA: Sequence[
    str
] = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
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
    images: str | os.PathLike | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Converts the files of one model (or of one metric) to a workdir; returns the receipt.

    output: a new directory, for `pdae_jax.load` and --config.pretrained; it appears whole or not at
    all. weights: "ema" or "raw". config: a config.yml (default: the one beside a file, if any).
    flags: `Architecture` facts that no tensor shows: heads, head_channels, qkv_order, image_size,
    schedule. images: pictures (one, a folder or a glob) that decide heads, qkv_order, schedule and
    predicts, where those are assumed, by the denoising loss (see `candidates`). say: takes a line
    for each thing found or assumed. Raises ValueError, with nothing written, where anything does
    not fit.
    """
    say = _printing(say)
    output = Path(output).expanduser()
    if output.is_symlink():
        raise ValueError(f"{output} is a link: give the folder that it leads to as --output")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is there already; choose another --output")
    found = [read_source(path, weights=weights, class_label=class_label) for path in paths]
    for source in found:
        say(describe(source))
    networks = merge(found)
    arch: Architecture | None = None
    told: list[Told] = []
    pictures: dict[str, Any] | None = None
    dialect = next((one.dialect for one in found if one.dialect is not GUIDED), GUIDED)
    if networks.keys() & MODEL.keys():
        facts = other_facts(found, config, flags or {}, say, dialect)
        check_config(found, facts, dialect)
        arch, told = model_architecture(networks, facts, dialect)
        for fact in told:
            say(str(fact))
        if images is None:
            check_heads(told)
    groups = to_groups(networks, arch, dialect)
    if images is not None:
        if arch is None:
            raise ValueError(
                f"--images={images} needs a diffusion model, whose noise is measured, and these "
                f"files have {', '.join(networks)} alone; leave it out"
            )
        arch, told, pictures = candidates.settle(arch, told, groups, images, say)
    attributes = next((source.attributes for source in found if source.attributes), [])
    if "classifier" not in networks:
        attributes = []
    elif len(attributes) != len(networks["classifier"]["bias"]):
        attributes = attribute_names(len(networks["classifier"]["bias"]))
        say(
            f"classifier: outputs assumed to be {attributes[0]} to {attributes[-1]}; for other "
            f"names: pdae_jax.workdir.workdir.Workdir({str(output)!r}).write_attributes([...])"
        )
    receipt = {
        "sources": [receipt_of(source) for source in found],
        "weights": weights,
        "class_label": class_label,
        "dialect": dialect.of,
        "configs": {name: one for source in found for name, one in source.configs.items()},
        "architecture": arch and arch.to_dict(),
        "told": [str(fact) for fact in told],
        "pictures": pictures,
        "attributes": attributes,
        "groups": {group: size_of(tree) for group, tree in groups.items()},
        "versions": {
            name: version(name) for name in ("pdae_jax", "jax", "numpy", "orbax-checkpoint")
        },
        "date": time.strftime("%Y-%m-%d"),
    }
    write(output, arch, groups, attributes, receipt)
    for group, size in receipt["groups"].items():
        say(
            f"{group}: {size['arrays']} arrays, {size['parameters']:,} parameters, norm "
            f"{size['norm']:.6g}"
        )
    say(f"written: {output}")
    return receipt


def _printing(say: Callable[[str], object]) -> Callable[[str], object]:
    """`say`, of a text without terminal escapes: names and words in a file are its writer's."""
    return lambda text: say(printable(text))


def check_heads(told: list[Told]) -> None:
    """Raises ValueError where nothing tells the attention heads, which no shape depends on."""
    unknown = {one.field for one in told if one.origin == NOTHING}
    if {"heads", "head_channels"} <= unknown:
        raise ValueError(
            "nothing tells how many attention heads the network has, and a wrong number spoils it: "
            "give --heads=N (guided-diffusion's own default is 4), --head_channels=N, or pictures "
            "like those that it was trained on, --images=PATH, which decide"
        )


def attribute_names(n: int) -> list[str]:
    """Names for the n outputs of a classifier, whose file has none: of 40, CelebA's attributes."""
    return list(CELEBA) if n == len(CELEBA) else [f"attribute_{k}" for k in range(n)]


def describe(source: Source) -> str:
    """Describes a file in a few lines."""
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
    """Joins all sources' networks to one model's; ValueError where two copies differ."""
    networks: dict[str, StateDict] = {}
    whose: dict[str, Path] = {}
    for source in found:
        for name, state in source.networks.items():
            first = whose.setdefault(name, source.path)
            check_same(name, networks.setdefault(name, state), state, first, source.path)
    if "unet" in networks and "decoder" in networks:  # the decoder holds the diffusion model
        unet = networks.pop("unet")
        check_same(
            "diffusion model",
            {key: networks["decoder"].get(key) for key in unet},
            unet,
            whose["decoder"],
            whose["unet"],
        )
    return networks


def check_same(
    name: str, one: Mapping[str, Any], other: Mapping[str, Any], first: Path, second: Path
) -> None:
    """Raises ValueError where two copies of a network differ."""
    if one is not other and not (
        one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
    ):
        raise ValueError(
            f"the {name} of {second} is not that of {first}: they are of different models or "
            f"steps (the copies in a latent diffusion model's file are enough by themselves)"
        )


def other_facts(
    found: list[Source],
    config: str | os.PathLike | None,
    flags: Mapping[str, Any],
    say: Callable[[str], object],
    dialect: Dialect = GUIDED,
) -> list[Facts]:
    """Facts of the architecture beyond the shapes, the best source first."""
    read = CONFIGS.get(
        dialect.project, lambda config, where: architecture_facts.from_config(config)
    )
    configs = [Path(config).expanduser()] if config else configs_of(found)
    facts = [one for source in found for one in source.facts]
    own = sum(one.source == architecture_facts.OWN for one in facts)  # the best source
    for path in configs:
        if any(one.source == str(path) for one in facts):  # a folder's own, given once more
            continue
        try:
            one = read(read_config(path), str(path))
        except architecture_facts.NotAConfig as error:
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
        facts.insert(own, one._replace(source=str(path), explicit=bool(config)))
    if flags:
        facts.append(Facts(architecture_facts.FLAG, dict(flags), explicit=True))
    return facts


def read_config(path: Path) -> Any:
    """A YAML or JSON file. YAML 1.1 takes 1e-06 for a text; here it is the number."""
    text = path.read_text()
    if path.suffix == ".json":
        return json.loads(text)
    return yaml.load(text, _Yaml)  # a SafeLoader: nothing in the file is run


class _Yaml(yaml.SafeLoader):
    pass


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def check_config(found: list[Source], facts: list[Facts], dialect: Dialect) -> None:
    """Raises ValueError where a project's network has settings of its own and no config is given.

    Its norms, embedding and padding change what is computed, and show in no tensor.
    """
    wanted = {"diffusers": model_folder.CONFIGS["network"], "MONAI": "arguments (JSON or YAML)"}
    what = wanted.get(dialect.project)
    known = any("norm_eps" in one.values for one in facts)
    if what and not known:
        raise ValueError(
            f"{found[0].path}: no tensor shows the norms, embedding and heads of "
            f"{dialect.project}'s network: give its {what}, with --config=FILE"
        )


def configs_of(found: list[Source]) -> list[Path]:
    """The nearest config.yml of each file: beside it, or in one of the two folders above.

    Trainers keep checkpoints in a folder of the run's.
    """
    nearest = [
        next((c for p in list(path.parents)[:3] if (c := p / "config.yml").is_file()), None)
        for path in (source.path.absolute() for source in found)
    ]
    return sorted({config for config in nearest if config})


def model_architecture(
    networks: Mapping[str, StateDict], facts: list[Facts], dialect: Dialect = GUIDED
) -> tuple[Architecture, list[Told]]:
    """The model's architecture, and each fact of it that its tensors do not show.

    Raises ValueError also for one that `pdae_jax.load` would refuse.
    """
    if not networks.keys() & {"unet", "decoder"}:
        raise ValueError(
            f"only {', '.join(networks)} was given, which is no model by itself; give the "
            f"autoencoder's (or diffusion model's) file too"
        )
    try:
        arch, told = architecture_facts.architecture(
            {
                name: {key: tensor.shape for key, tensor in state.items()}
                for name, state in networks.items()
                if name in MODEL
            },
            facts,
            dialect,
        )
        Model(arch, {})  # what `load` builds, but for the parameters, which `to_groups` checks
        return arch, told
    except (LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"a tensor that every such network has is missing or of another shape, or a setting "
            f"is of another kind: {error}"
        ) from error


def to_groups(
    networks: Mapping[str, StateDict], arch: Architecture | None, dialect: Dialect = GUIDED
) -> dict[str, dict[str, Any]]:
    """Every network as pdae_jax's parameters, {group: nested dict}, once all of them fit."""
    maps: dict[str, Names] = {}
    for name, state in networks.items():
        if name in METRICS:
            shapes = METRICS[name]()
            maps[name] = name_map.plain(name, shapes)
        else:
            assert arch is not None  # `convert` found it, as this is a model's network
            names = MODEL[name]
            maps[name] = names(arch, dialect) if name == "unet" else names(arch)
            shapes = model_shapes(name, arch, maps[name], state)
        name_map.check_fit(name, shapes, state, shapes)
        odd = [key for key, tensor in state.items() if not np.isfinite(tensor).all()]
        if odd:
            raise ValueError(
                f"the {name} has NaN or infinite numbers in {len(odd)} tensors, such as {odd[0]}: "
                f"the file is of a training that failed, or damaged"
            )
    if "statistics" in networks and not (networks["statistics"]["std"] > 0).all():
        raise ValueError(
            f"the std of z is {networks['statistics']['std'].min():g} in places, and z is divided "
            f"by it: it must be above 0; take the file of the run that measured it"
        )
    groups: dict[str, dict[str, Any]] = {}
    for name, state in networks.items():
        groups |= name_map.to_params(maps[name], state)
    return groups


def model_shapes(name: str, arch: Architecture, names: Names, state: StateDict) -> Shapes:
    """The shapes that the tensors of a model's network must have."""
    if name == "statistics":
        return {"mean": (arch.z_size,), "std": (arch.z_size,)}
    if name == "classifier":
        return {"weight": (len(state["weight"]), arch.z_size), "bias": (len(state["weight"]),)}
    return name_map.torch_shapes(names, Networks(arch).shapes(GROUPS[name]))


def size_of(tree: Any) -> dict[str, Any]:
    """The number of a group's arrays and parameters, and their norm."""
    # In the order of their memory: they may be views of a file in another layout.
    leaves = [np.ravel(leaf, order="K") for leaf in jax.tree.leaves(tree)]
    return {
        "arrays": len(leaves),
        "parameters": int(sum(leaf.size for leaf in leaves)),
        "norm": float(np.sqrt(sum(np.vdot(leaf, leaf).astype(np.float64) for leaf in leaves))),
    }


def receipt_of(source: Source) -> dict[str, Any]:
    """The receipt's entry of one file."""
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


def write(
    output: Path,
    arch: Architecture | None,
    groups: dict[str, dict],
    attributes: list[str],
    receipt: dict[str, Any],
) -> None:
    """Writes the new workdir, whole or not at all."""
    with atomic.new_folder(output) as partial:
        workdir = Workdir(partial)
        if arch:
            workdir.write_architecture(arch)
        workdir.save_weights(groups)
        if attributes:
            workdir.write_attributes(attributes)
        workdir.write_receipt(receipt)


def in_guided_names(arch: Architecture, unet: StateDict, dialect: Dialect) -> StateDict:
    """A UNet's state dict of any project in guided-diffusion's names, which are ours."""
    if dialect is GUIDED:
        return unet
    params = name_map.to_params(name_map.unet(arch, dialect), unet)
    return name_map.to_torch(name_map.unet(arch), params)


def state_dicts(workdir: Workdir, dialect: Dialect = GUIDED) -> dict[str, StateDict]:
    """A model's parameters as state dicts in the original names, {network: state dict}.

    dialect: of the names of a diffusion model by itself.
    """
    arch, groups = workdir.architecture, workdir.weights()
    if arch.patch > 1:
        raise ValueError(
            f"the model at {workdir} has patch = {arch.patch}, which the original's networks do "
            f"not know: only one of patch = 1 can become a PyTorch file"
        )
    wanted = ["decoder" if "gradient" in groups else "unet"]
    wanted += [name for name in ("encoder", "latent", "classifier", "statistics") if name in groups]
    return {
        name: name_map.to_torch(
            name_map.unet(arch, dialect) if name == "unet" else MODEL[name](arch), groups
        )
        for name in wanted
    }


def export(model: str | os.PathLike, path: str | os.PathLike) -> None:
    """Writes the model of a workdir as one PyTorch file in the layout of the PDAE authors'.

    It has ema_denoise_fn, or ema_decoder and ema_encoder, and what else the model holds that the
    authors have; beside them its "architecture", by which `convert` imports it exactly. What they
    have not, what is distilled, is named and left out. A diffusion model by itself goes back in the
    names that it came with; one of diffusers as a folder, where `path` has no suffix. Needs
    PyTorch, but for that folder.
    """
    path, workdir = Path(path).expanduser(), Workdir(model)
    if path.exists():
        raise ValueError(f"{path} is there already; choose another name")
    receipt = workdir.receipt if workdir.was_converted else {}
    alone = "gradient" not in workdir.groups
    dialect = DIALECTS[receipt.get("dialect", GUIDED.of)] if alone else GUIDED
    if path.suffix == ".safetensors":
        raise ValueError(f"{path}: what is exported is a PyTorch file: give FILE.pt")
    if dialect is DIFFUSERS and not path.suffix:
        if "network" not in receipt["configs"]:
            raise ValueError(
                f"{workdir} was converted without diffusers' own config: give FILE.pt, or convert "
                f"the folder again"
            )
        _write_diffusers(workdir, path, receipt)
        return
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "writing a PyTorch file needs PyTorch: pip install 'pdae_jax[convert]'"
        ) from error
    keys = {
        "unet": "ema_denoise_fn",
        "decoder": "ema_decoder",
        "encoder": "ema_encoder",
        "latent": "ema_latent_denoise_fn",
        "classifier": "ema_classifier",
    }
    value: dict[str, Any] = {"architecture": workdir.architecture.to_dict()}
    if "classifier" in workdir.groups and workdir.attributes:
        value["attributes"] = list(workdir.attributes)
    for name, state in state_dicts(workdir, dialect).items():
        tensors = {key: torch.from_numpy(array.copy()) for key, array in state.items()}
        if dialect is not GUIDED:
            value = tensors
            print(f"in {dialect.project}'s names, as the model came")
        else:
            value |= tensors if name == "statistics" else {keys[name]: tensors}
    if left_out := [group for group in STUDENTS if group in workdir.groups]:
        print(f"left out, as the original has no such networks: {' and '.join(left_out)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if dialect is GUIDED:
        for line in unlike_the_original(workdir.architecture):
            print(line)
    with atomic.new_file(path) as partial:
        try:
            torch.save(value, partial)
        except RuntimeError as error:  # PyTorch's word for a disk that is full
            raise OSError(
                f"{path} could not be written ({str(error).splitlines()[0]}): make room"
            ) from error
    if dialect is not GUIDED:  # whose own code loads the tensors alone
        beside = model_folder.settings_beside(path)
        atomic.write_text(beside, json.dumps(workdir.architecture.to_dict()) + "\n")
        print(f"its settings, for pdae_jax to read again: {beside}")


def unlike_the_original(arch: Architecture) -> list[str]:
    """Lines on why the original's own classes do not build these networks, if so."""
    why = []
    if not arch.is_adm:
        why.append("blocks of another project")
    if arch.mult[0] != 1:
        why.append(f"a first level of {arch.mult[0]:g} times the base")
    if odd := [c for c in (arch.base, *map(arch.width, range(len(arch.mult)))) if c % 32]:
        why.append(f"{odd[0]} channels, which its 32 groups of a norm do not divide")
    if not why:
        return []
    return [
        f"the original's own classes do not build this network, with {listed(why)}: the file is "
        f"for pdae_jax, whose names docs/checkpoints.md explains"
    ]


def _write_diffusers(workdir: Workdir, path: Path, receipt: Mapping[str, Any]) -> None:
    """Writes a diffusion model of diffusers as the folder that its from_pretrained reads."""
    configs = {name: dict(config) for name, config in receipt["configs"].items()}
    if receipt.get("class_label") is not None:
        configs["network"]["num_class_embeds"] = None
        print(f"of class {receipt['class_label']} alone, to which it was reduced")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.new_folder(path) as partial:
        model_folder.write(partial, state_dicts(workdir, DIFFUSERS)["unet"], configs)
