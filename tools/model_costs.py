"""What PDAE over published diffusion models takes: parameters, memory and hours of one GPU.

    python tools/model_costs.py [--tflops=100] [--images=1e6] [NAME ...]

Networks are built from the configs that their projects publish; nothing is downloaded or run. The
memory is that of training in bfloat16: what does not depend on the batch, and what one picture of a
micro-batch adds. Hours are FLOP of the traced step over --tflops, for --images pictures.
"""

import argparse
from typing import Any

import jax

from pdae_jax.cost.forecast import training_flops
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks
from pdae_jax.training.memory import need

ADD = dict(condition="shift", down=("conv_right",), up=("conv",), qkv_order="new", norm_eps=1e-6)
GOOGLE = ADD | dict(frequencies="sin_cos", frequency_shift=1.0)
ADM = dict(learned_variance=True, head_channels=64)
MODELS: dict[str, dict[str, Any]] = {
    "google/ddpm-cifar10-32": GOOGLE
    | dict(image_shape=(32, 32, 3), base=128, mult=(1, 2, 2, 2), attention=(16,)),
    "google/ddpm-cat-256 (church, bedroom, celebahq)": GOOGLE
    | dict(image_shape=(256, 256, 3), base=128, mult=(1, 1, 2, 2, 4, 4), attention=(16,)),
    "diffusers train_unconditional, 64 px": ADD
    | dict(image_shape=(64, 64, 3), base=128, mult=(1, 1, 2, 2, 4, 4), attention=(4,))
    | dict(down=("conv",), head_channels=8),
    "guided-diffusion, its default flags, 64 px": dict(
        image_shape=(64, 64, 3), base=128, mult=(1, 2, 3, 4), attention=(16, 8), heads=4
    )
    | dict(down=("conv",), up=("conv",)),
    "guided-diffusion 64x64_diffusion.pt": ADM
    | dict(image_shape=(64, 64, 3), base=192, mult=(1, 2, 3, 4), blocks=3, attention=(32, 16, 8))
    | dict(qkv_order="new", schedule="cosine"),
    "guided-diffusion lsun_*.pt, 256x256_diffusion_uncond.pt": ADM
    | dict(image_shape=(256, 256, 3), base=256, mult=(1, 1, 2, 2, 4, 4), attention=(32, 16, 8)),
    "EDM --arch=adm, ImageNet 64": dict(
        image_shape=(64, 64, 3), base=192, mult=(1, 2, 3, 4), blocks=3, attention=(32, 16, 8)
    )
    | dict(head_channels=64, group_channels=4, reads="quarter_log_sigma", predicts="edm")
    | dict(schedule="karras"),
    "OpenAI consistency edm_cat256, edm_bedroom256": dict(
        image_shape=(256, 256, 3), base=256, mult=(1, 1, 2, 2, 4, 4), attention=(32, 16, 8)
    )
    | dict(head_channels=64, condition="shift", reads="250_log_sigma", predicts="edm")
    | dict(schedule="karras", qkv_order="new"),
}


def parameters(arch: Architecture, *groups: str) -> float:
    """Parameters of groups, in millions."""
    params = jax.eval_shape(lambda: Networks(arch).init(jax.random.key(0), groups))
    return sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="parts of models' names; default: all")
    parser.add_argument("--tflops", type=float, default=100.0, help="TFLOP/s (default 100)")
    parser.add_argument("--images", type=float, default=1e6, help="pictures seen (default 1e6)")
    arguments = parser.parse_args()
    print("| model | M parameters, frozen + trained | GiB fixed + a picture | hours |")
    print("|---|---|---|---|")
    for name, fields in MODELS.items():
        if arguments.names and not any(part in name for part in arguments.names):
            continue
        arch = Architecture(**fields)
        frozen, trained = parameters(arch, "dpm"), parameters(arch, "encoder", "gradient")
        takes = need("pdae", arch, "bfloat16")
        hours = training_flops(arch, "pdae") * arguments.images / arguments.tflops / 1e12 / 3600
        print(
            f"| {name} | {frozen:.0f} + {trained:.0f} | {takes.fixed / 2**30:.1f} + "
            f"{takes.image / 2**30:.2f} | {hours:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
