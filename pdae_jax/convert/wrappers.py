"""What trainers put around a state dict: lists, boxes beside an optimizer's, prefixes of names."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pdae_jax.runtime.choices import listed

Entries = dict[str, Any]

EMA_BOXES = ("ema", "model_ema", "ema_model", "ema_state_dict", "params_ema")
RAW_BOXES = ("state_dict", "model", "model_state_dict", "unet", "net", "network", "params")
# Of torch.optim.swa_utils, ema_pytorch, DataParallel, torch.compile, Lightning and others.
PREFIXES = ("ema_model.", "online_model.", "module.", "_orig_mod.", "model.", "unet.", "net.")
MOST = 6  # one around another


def without_shared_prefix(state: Mapping[str, Any]) -> Entries:
    """A state dict without the prefixes that DataParallel and torch.compile give to every key."""
    state = dict(state)
    for _ in range(MOST):
        prefix = next(
            (
                one
                for one in ("module.", "_orig_mod.")
                if state and all(isinstance(key, str) and key.startswith(one) for key in state)
            ),
            None,
        )
        if prefix is None:
            break
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def layers(value: Mapping[Any, Any], depth: int = 3) -> list[Entries]:
    """A checkpoint's mappings, the outer ones first, without what all names of one begin with."""
    found = [without_shared_prefix({k: v for k, v in value.items() if isinstance(k, str)})]
    for inner in value.values() if depth else ():
        if isinstance(inner, Mapping):
            found += layers(inner, depth - 1)
    return found


def _has_tensors(value: Any, depth: int = 3) -> bool:
    """Whether a box has tensors by their names, or another such box."""
    if not isinstance(value, Mapping):
        return False
    return any(
        hasattr(one, "shape") or depth > 0 and _has_tensors(one, depth - 1)
        for one in value.values()
    )


def of_list(value: Sequence[Any], weights: str, ignored: list[str]) -> Any:
    """DDIM's checkpoints are lists: the model, optimizer, epoch, step and, last, its average."""
    average = value[-1]
    if len(value) > 1 and isinstance(average, Mapping) and len(average) == len(value[0]):
        ignored.append(
            "the raw model: its average is taken" if weights == "ema" else "its average: raw taken"
        )
        return average if weights == "ema" else value[0]
    return value[0]


def unwrapped(
    value: Entries, is_known: Callable[[Entries], bool], weights: str, ignored: list[str]
) -> Entries:
    """The state dict within a checkpoint of another trainer; the value itself where none is known.

    weights: "ema" or "raw", where there are both. ignored: takes a line on what is left.
    """
    found, notes = value, []
    for _ in range(MOST):
        found = without_shared_prefix(found)
        if is_known(found):
            ignored += notes
            return found
        inner = _inside(found, weights, notes)
        if inner is None:
            return value
        found = inner
    return value


def _inside(value: Entries, weights: str, notes: list[str]) -> Entries | None:
    """One wrapper less; None where there is none."""
    ema = weights == "ema"
    boxes = (*EMA_BOXES, *RAW_BOXES) if ema else (*RAW_BOXES, *EMA_BOXES)
    box = next((name for name in boxes if _has_tensors(value.get(name))), None)
    if box is not None:
        inner = {key: entry for key, entry in value[box].items() if isinstance(key, str)}
        others = [key for key in value if key != box]
    else:
        order = sorted(PREFIXES, key=lambda one: ("ema" in one) != ema)
        prefix = next((one for one in order if any(key.startswith(one) for key in value)), None)
        if prefix is None:
            return None
        inner = {
            key.removeprefix(prefix): entry
            for key, entry in value.items()
            if key.startswith(prefix)
        }
        others = [key for key in value if not key.startswith(prefix)]
    if others:
        notes.append(f"{listed(others)}: beside the model that is taken")
    return inner
