"""Names the networks that cannot come in, by what their tensors are called and shaped."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Tensors = Mapping[str, Any]  # of a state dict; what has a shape is a tensor

PIXELS = "only diffusion models of pixels that read x_t and t come in"


class Known(NamedTuple):
    """A kind of network: how it is recognised, what it is, and why it stays outside."""

    recognises: Callable[[Tensors], bool]
    what: str
    why: str


def _has(*marks: str) -> Callable[[Tensors], bool]:
    """Whether each of the marks is a part of some tensor's name."""
    return lambda tensors: all(any(mark in key for key in tensors) for mark in marks)


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    return tuple(getattr(tensors.get(name), "shape", ()))


def _is_upsampler(tensors: Tensors) -> bool:
    """Of the pictures of 3 channels that it reads, 6: x_t and the small picture."""
    first, out = _shape(tensors, "input_blocks.0.0.weight"), _shape(tensors, "out.2.weight")
    return len(first) == 4 and first[1] == 6 and out[:1] in ((3,), (6,))


def _is_classifier(tensors: Tensors) -> bool:
    ups = any(key.startswith("output_blocks.") for key in tensors)
    return "input_blocks.0.0.weight" in tensors and "out.0.weight" in tensors and not ups


def _is_of_volumes(tensors: Tensors) -> bool:
    firsts = ("conv_in.conv.weight", "input_blocks.0.0.weight", "conv_in.weight")
    return any(len(_shape(tensors, name)) == 5 for name in firsts)


NEAR_MISSES = (
    Known(_is_of_volumes, "a network of volumes (3-D convolutions)", PIXELS),
    Known(
        _has("first_stage_model."),
        "a latent diffusion model (CompVis)",
        "its network works on an autoencoder's latents, and " + PIXELS,
    ),
    Known(
        _has(".transformer_blocks."),
        "a UNet that is conditioned on text or other tokens",
        PIXELS,
    ),
    Known(_has("quant_conv."), "an autoencoder of latent diffusion (KL or VQ)", PIXELS),
    Known(_has("adaLN_modulation."), "a diffusion transformer (DiT)", PIXELS),
    Known(
        _has("emb_gain"),
        "EDM2's network",
        "it normalises weights and has no group norm: another network than ADM's",
    ),
    Known(
        _has("all_modules."),
        "score_sde's network (NCSN++ or DDPM++)",
        "its blocks are others; DDPM models of score_sde exist as diffusers' folders",
    ),
    Known(
        _has("_aux_norm", "map_layer0"),
        "EDM's SongUNet (DDPM++ or NCSN++)",
        "of EDM's networks the ADM one (--arch=adm) comes in",
    ),
    Known(
        _has("init_conv.weight", "downs.0.0."),
        "denoising-diffusion-pytorch's UNet (lucidrains)",
        "its blocks normalise after the convolution and its skips are others; train one of "
        "diffusers' UNet2DModel, or here, with --config=configs/folder.py:dpm",
    ),
    Known(
        _is_upsampler,
        "guided-diffusion's upsampler",
        "it reads the small picture beside x_t: only models of x_t and t come in",
    ),
    Known(
        _is_classifier,
        "guided-diffusion's classifier of noisy pictures",
        "it predicts classes, no noise: give the diffusion model's file",
    ),
)


def check(where: str, tensors: Tensors) -> None:
    """Raises ValueError for a network that cannot come in, with its name and the reason."""
    for known in NEAR_MISSES:
        if known.recognises(tensors):
            raise ValueError(f"{where}: {known.what}: {known.why}")
