"""Name maps: each key of a PyTorch state dict, and its place in pdae_jax's parameters.

One table per network, both ways: `to_params` imports a state dict, `to_torch` exports it again,
equal bit for bit. The layouts differ (NCHW and NHWC, transposed matrices), and pdae_jax keeps all
projections of t (and of z) in one matrix, where the original has one a residual block.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from pdae_jax.convert.dialects import GUIDED, Attending, Dialect, Residual
from pdae_jax.networks.architecture import Architecture, Block
from pdae_jax.runtime.choices import listed


class Layout(NamedTuple):
    """Conversions of one tensor's layout: from PyTorch's, and back to it."""

    from_torch: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda w: w, lambda w: w)
MATRIX = Layout(lambda w: w.T, lambda w: w.T)
CONV = Layout(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))
# Attention's 1 x 1 convolutions, [out, in, 1] and [out, in, 1, 1]: linear layers in pdae_jax.
CONV1D = Layout(lambda w: w[:, :, 0].T, lambda w: w.T[:, :, None])
POINT = Layout(lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])


class Entry(NamedTuple):
    """One tensor: its place in the parameters, and the columns of the last axis it takes there."""

    path: tuple[str, ...]
    layout: Layout
    columns: slice | None = None


Names = dict[str, Entry]
# The torch name of each condition's linear layer -> (path, columns).
Projections = dict[str, tuple[tuple[str, ...], slice]]


def _pair(torch: str, path: tuple[str, ...], layout: Layout, columns: slice | None = None) -> Names:
    """A layer's weight and bias."""
    leaf = "scale" if layout is SAME else "kernel"
    dot = f"{torch}." if torch else ""
    return {
        f"{dot}weight": Entry((*path, leaf), layout, columns),
        f"{dot}bias": Entry((*path, "bias"), SAME, columns),
    }


def _attention(
    torch: str,
    path: tuple[str, ...],
    parts: Attending = GUIDED.attention,
    heads: int = 1,
    width: int = 0,
    norm: bool = True,
) -> Names:
    """An attention. heads, width: those of one whose channels are ordered anew, or are apart."""
    layout = {"linear": MATRIX, "1d": CONV1D, "2d": POINT}[parts.axes]
    names = _pair(f"{torch}.{parts.norm}", (*path, "norm"), SAME) if norm else {}
    whole = (*path, "qkv")
    if parts.order:
        (qkv,) = parts.qkv
        kernel, bias = _pair(f"{torch}.{qkv}", whole, layout).items()
        names |= {
            name: entry._replace(layout=_by_head(entry.layout, heads))
            for name, entry in (kernel, bias)
        }
    elif len(parts.qkv) == 1:
        names |= _pair(f"{torch}.{parts.qkv[0]}", whole, layout)
    else:
        for k, one in enumerate(parts.qkv):
            names |= _pair(f"{torch}.{one}", whole, layout, slice(k * width, (k + 1) * width))
    return names | _pair(f"{torch}.{parts.proj}", (*path, "proj"), layout)


def _by_head(layout: Layout, heads: int) -> Layout:
    """Channels [head][c][q,k,v] of PyTorch's first axis, as "legacy", [head][q,k,v][c]."""

    def from_torch(w: np.ndarray) -> np.ndarray:
        return layout.from_torch(rearrange(w, "(h c q) ... -> (h q c) ...", h=heads, q=3))

    def to_torch(w: np.ndarray) -> np.ndarray:
        return rearrange(layout.to_torch(w), "(h q c) ... -> (h c q) ...", h=heads, q=3)

    return Layout(from_torch, to_torch)


def _res(
    torch: str,
    path: tuple[str, ...],
    skip: bool,
    projections: Projections,
    parts: Residual = GUIDED.residual,
) -> Names:
    """A residual block, with the layers that project its conditions."""
    names = (
        _pair(f"{torch}.{parts.norm_in}", (*path, "norm_in"), SAME)
        | _pair(f"{torch}.{parts.conv_in}", (*path, "conv_in"), CONV)
        | _pair(f"{torch}.{parts.norm_out}", (*path, "norm_out"), SAME)
        | _pair(f"{torch}.{parts.conv_out}", (*path, "conv_out"), CONV)
    )
    if skip:
        names |= _pair(f"{torch}.{parts.skip}", (*path, "skip"), CONV)
    for name, (matrix, columns) in projections.items():
        names |= _pair(f"{torch}.{name}", matrix, MATRIX, columns)
    return names


def _columns(widths: list[int], parts: int = 2) -> Iterator[slice]:
    start = 0
    for width in widths:
        yield slice(start, start + parts * width)
        start += parts * width


def _where(arch: Architecture, block: Block, k: int, step: int = 0) -> dict[str, Any]:
    """What names of a block may contain (`dialects`); step: to the next level on its way."""
    sizes, following = arch.map_sizes, block.level + step
    return {
        "k": k,
        "level": block.level,
        "up": len(arch.mult) - 1 - block.level,
        "place": block.place,
        "size": sizes[block.level],
        "next": sizes[following] if 0 <= following < len(sizes) else 0,
        "last": 1 + block.attention,
    }


def _decoder(
    arch: Architecture,
    root: str,
    prefix: str,
    projections: Callable[[], Projections],
    dialect: Dialect = GUIDED,
) -> Names:
    """Middle block, way up and head: the UNet's (prefix "") or the estimator's ("shift_")."""
    width, up = arch.width(-1), (root, "up")

    def attention(name: str, ours: str, width: int, above: bool, norm: bool = True) -> Names:
        heads = arch.heads_of(width, above)
        return _attention(name, (*up, ours), dialect.attention, heads, width, norm)

    def res(name: str, ours: str, skip: bool) -> Names:
        return _res(name, (*up, ours), skip, projections(), dialect.residual)

    place = _where(arch, Block(width, len(arch.mult) - 1), 0)
    first, middle, second = (f"{prefix}{name.format(**place)}" for name in dialect.middle)
    names = res(first, "middle_0", False)
    if arch.middle != "plain":
        normed = arch.middle == "attention"
        names |= attention(middle, "middle_attention", width, False, normed)
    names |= res(second, "middle_1", False)
    for k, block in enumerate(arch.up_path()):
        place = _where(arch, block, k, -1)
        skip = width + block.skip != block.channels
        names |= res(f"{prefix}{dialect.up.format(**place)}", f"block_{k}", skip)
        if block.attention:
            name = f"{prefix}{dialect.up_attention.format(**place)}"
            names |= attention(name, f"attention_{k}", block.channels, True)
        if block.resample == "residual":
            name = f"{prefix}{dialect.up_residual.format(**place)}"
            names |= res(name, f"upsample_{k}", False)
        elif block.resample:
            name = f"{prefix}{dialect.up_conv.format(**place)}"
            names |= _pair(name, (*up, f"upsample_{k}"), CONV)
        width = block.channels
    return (
        names
        | _pair(f"{prefix}{dialect.norm}", (*up, "norm"), SAME)
        | _pair(f"{prefix}{dialect.out}", (*up, "out"), CONV)
    )


def unet(arch: Architecture, dialect: Dialect = GUIDED) -> Names:
    """eps_theta, by a project's names -> group "dpm"."""
    names: Names = {}
    for ours, name in zip(("in", "out"), dialect.time):
        names |= _pair(name, ("dpm", "time_embedding", ours), MATRIX)
    parts = 2 if arch.condition == "scale_shift" else 1
    columns = _columns(arch.down_conditions() + arch.up_conditions(), parts)

    def projections() -> Projections:
        return {dialect.residual.time: (("dpm", "time_projection", "linear"), next(columns))}

    width = None
    for k, block in enumerate(arch.down_path()):
        path, place = ("dpm", "down", f"block_{k}"), _where(arch, block, k, 1)
        if block.conditioned:
            name = dialect.down_residual if block.kind == "down" else dialect.down
            skip = block.channels != width
            names |= _res(name.format(**place), path, skip, projections(), dialect.residual)
        else:
            name = dialect.stem if block.kind == "conv" else dialect.down_conv
            names |= _pair(name.format(**place), path, CONV)
        if block.attention:
            names |= _attention(
                dialect.down_attention.format(**place),
                ("dpm", "down", f"attention_{k}"),
                dialect.attention,
                arch.heads_of(block.channels),
                block.channels,
            )
        width = block.channels
    return names | _decoder(arch, "dpm", "", projections, dialect)


def gradient_estimator(arch: Architecture) -> Names:
    """G: the keys of the authors' decoder beside the UNet's -> group "gradient"."""
    arch = arch.estimator
    time, code = _columns(arch.up_conditions()), _columns(arch.up_conditions())

    def projections() -> Projections:
        return {
            "emb_layers.1": (("gradient", "time_projection", "linear"), next(time)),
            "emb_z_layers.1": (("gradient", "z_projection", "linear"), next(code)),
        }

    return _pair("label_emb", ("gradient", "z_embedding"), MATRIX) | _decoder(
        arch, "gradient", "shift_", projections
    )


def decoder(arch: Architecture) -> Names:
    """The authors' decoder file: the UNet and G in one state dict."""
    return unet(arch) | gradient_estimator(arch)


def encoder(arch: Architecture) -> Names:
    """E: a numbered list of layers; the last takes a channel-first flattened map."""
    names: Names = {}
    index = 0
    height, width = arch.image_shape[:2]
    for k in range(len(arch.encoder_widths)):
        height, width = -(-height // 2), -(-width // 2)
        names |= _pair(f"encoder.{index}", ("encoder", f"conv_{k}"), CONV)
        index += 1
        if arch.encoder_attends(height, width):
            names |= _attention(f"encoder.{index}", ("encoder", "attention"))
            index += 1
        names |= _pair(f"encoder.{index}", ("encoder", f"norm_{k}"), SAME)
        index += 2  # the norm, and a SiLU
    channels = arch.encoder_widths[-1]
    shape = (channels, height, width)
    flat = Layout(
        lambda w: w.reshape(-1, *shape).transpose(2, 3, 1, 0).reshape(-1, len(w)),
        lambda w: (
            w.reshape(height, width, channels, -1).transpose(3, 2, 0, 1).reshape(w.shape[1], -1)
        ),
    )
    return names | _pair(f"encoder.{index + 1}", ("encoder", "out"), flat)


def latent_mlp(arch: Architecture) -> Names:
    """eps_omega. `linear_emb` and `cond_layers.1` are one tensor saved twice: both are here."""
    names = _pair("time_embed.0", ("latent", "time_embedding", "in"), MATRIX) | _pair(
        "time_embed.2", ("latent", "time_embedding", "out"), MATRIX
    )
    last = arch.latent_layers - 1
    for k in range(last):
        columns = slice(k * arch.latent_hidden, (k + 1) * arch.latent_hidden)
        names |= _pair(f"layers.{k}.linear", ("latent", f"layers_{k}"), MATRIX)
        for twin in ("linear_emb", "cond_layers.1"):
            names |= _pair(f"layers.{k}.{twin}", ("latent", "time_projection"), MATRIX, columns)
        names |= _pair(f"layers.{k}.norm", ("latent", f"norms_{k}"), SAME)
    return names | _pair(f"layers.{last}.linear", ("latent", "out"), MATRIX)


def classifier(arch: Architecture) -> Names:
    """The linear classifier of z -> group "classifier"."""
    return _pair("", ("classifier",), MATRIX)


def statistics(arch: Architecture) -> Names:
    """Mean and standard deviation of z, which the latent model is normalised by."""
    return {name: Entry(("statistics", name), SAME) for name in ("mean", "std")}


def plain(group: str, shapes: Mapping[str, tuple[int, ...]]) -> Names:
    """A network that keeps its names: "a.b.weight" -> (group, a, b, "kernel" or "scale")."""
    layouts = {1: SAME, 2: MATRIX, 4: CONV}
    leaves = {"bias": "bias", "running_mean": "mean", "running_var": "variance"}
    names: Names = {}
    for key, shape in shapes.items():
        *path, leaf = key.split(".")
        leaf = leaves.get(leaf) or ("scale" if len(shape) == 1 else "kernel")
        names[key] = Entry((group, *path, leaf), layouts[len(shape)])
    return names


def torch_shapes(names: Names, params: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of the state dict that fills parameters of the shapes `params`."""

    def shape(entry: Entry) -> tuple[int, ...]:
        node = params
        for name in entry.path:
            node = node[name]
        empty = np.broadcast_to(np.float32(0), node.shape)  # of this shape, without its memory
        return entry.layout.to_torch(empty[..., entry.columns] if entry.columns else empty).shape

    return {key: shape(entry) for key, entry in names.items()}


def check_fit(
    what: str,
    wanted: Mapping[str, Any],
    state_dict: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Raises ValueError with all keys that are missing, left over or, by `shapes`, misshapen."""
    missing, extra = sorted(wanted.keys() - state_dict), sorted(state_dict.keys() - wanted.keys())
    odd = [
        f"{key} is {list(state_dict[key].shape)}, not {list(shape)}"
        for key, shape in sorted((shapes or {}).items())
        if key in state_dict and state_dict[key].shape != tuple(shape)
    ]
    # Nearest names first: what was renamed stands beside what it was renamed to.
    near = {key: difflib.get_close_matches(key, extra, 1, 0.8) for key in missing[:MOST_COMPARED]}
    missing = sorted(missing, key=lambda key: (not near.get(key), key))
    missing = [
        f"{key} (nearest there: {near[key][0]})" if near.get(key) else key for key in missing
    ]
    problems = [
        f"{words} {listed(keys)}"
        for words, keys in (("missing", missing), ("left over", extra), ("misshapen:", odd))
        if keys
    ]
    if problems:
        raise ValueError(f"the {what} does not fit: {'; '.join(problems)}")


MOST_COMPARED = 40


def to_params(names: Names, state_dict: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """A state dict of any float type as float32 parameters, {group: nested dict}.

    Where types and layouts allow, they are views: a file that is mapped is not copied.

    Strictly: ValueError where a key is missing or left over, or where two twins differ.
    """
    check_fit("state dict", names, state_dict)
    pieces: dict[tuple[str, ...], dict[int, np.ndarray]] = {}
    for key, entry in names.items():
        piece = entry.layout.from_torch(np.asarray(state_dict[key]))
        start = entry.columns.start if entry.columns else 0
        twin = pieces.setdefault(entry.path, {}).setdefault(start, piece)
        if not np.array_equal(twin, piece):
            raise ValueError(f"{key} differs from its twin, the same tensor saved twice")
    params: dict[str, Any] = {}
    for path, found in pieces.items():
        node = params
        for name in path[:-1]:
            node = node.setdefault(name, {})
        parts = [found[start] for start in sorted(found)]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
        with np.errstate(over="ignore"):  # a float64 may be beyond float32
            node[path[-1]] = joined.astype(np.float32, copy=False)
        if not np.isfinite(node[path[-1]]).all():
            raise ValueError(f"{'/'.join(path)} has numbers that are not finite in float32")
    return params


def to_torch(names: Names, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters as a state dict in the original's names and layouts."""
    state_dict: dict[str, np.ndarray] = {}
    for key, (path, layout, columns) in names.items():
        node: Any = params
        for name in path:
            node = node[name]
        array = np.asarray(node)
        array = array[..., columns] if columns else array
        state_dict[key] = np.ascontiguousarray(layout.to_torch(array))
    return state_dict
