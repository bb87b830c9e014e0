#!/usr/bin/env python3
"""Imports PyTorch checkpoints, verifies them against the original, and exports models back.

    python tools/convert_torch_weights.py autoencoder/checkpoint.pt --output=models/bedroom128
    python tools/convert_torch_weights.py autoencoder/checkpoint.pt latents/bedroom128.pt \\
        latent_denoise_fn/checkpoint.pt classifier/checkpoint.pt --output=models/all
    python tools/convert_torch_weights.py models/bedroom128 --to-torch=bedroom128.pt

Reads diffusion models of Diff-AE, the PDAE authors, guided-diffusion and improved-diffusion,
diffusers (UNet2DModel), DDIM, MONAI, EDM (its ADM net) and OpenAI's consistency models, and the
AlexNet, LPIPS and Inception files of the metrics, without PyTorch and without running what is in
them. docs/models.md has a line for each.
What no tensor shows (heads and the like) is taken from a config.yml, the file's own
hyper_parameters, a flag or the known models, in that order, and printed. With --images=PATH,
pictures like those that the model was trained on, the denoising loss decides heads, qkv_order,
schedule and predicts where they are only assumed, and warns where they are told otherwise. DIR is
for pdae_jax.load(DIR) and --config.pretrained=DIR.
"""

import argparse
import importlib.util
import sys

FACTS = "heads head_channels heads_up qkv_order image_size schedule T predicts reads".split()


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "source",
        nargs="+",
        help="files of one model, or its folder (diffusers); with --to-torch, the directory of a "
        "pdae_jax model",
    )
    p.add_argument("--output", metavar="DIR", help="new directory, written whole or not at all")
    p.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="weights to take where a file has both (default %(default)s)",
    )
    p.add_argument(
        "--config",
        metavar="FILE",
        help="YAML or JSON config of the model: the PDAE authors', DDIM's, or the arguments of "
        "MONAI's DiffusionModelUNet (default: the one beside a source, if any)",
    )
    p.add_argument(
        "--verify",
        action="store_true",
        help="comparison with the original in PyTorch (pip install 'pdae_jax[convert]'); what it "
        "cannot prove is named",
    )
    p.add_argument(
        "--images",
        metavar="PATH",
        help="pictures (one, a folder or a quoted glob) whose denoising loss decides what no "
        "tensor shows and nobody told: heads or head_channels, qkv_order, schedule, predicts",
    )
    p.add_argument(
        "--to-torch",
        metavar="FILE",
        dest="to_torch",
        help="PyTorch file to export SOURCE, a pdae_jax model, to; a model of diffusers by itself "
        "goes to a folder, where the name has no suffix",
    )
    facts = p.add_argument_group("facts that tensors do not show")
    facts.add_argument("--heads", type=int, help="attention heads")
    facts.add_argument("--head_channels", type=int, help="channels of a head, instead of --heads")
    facts.add_argument(
        "--qkv_order",
        choices=("legacy", "new"),
        help="order of the qkv channels (new: guided-diffusion's use_new_attention_order)",
    )
    facts.add_argument(
        "--image_size", type=int, help="image size in pixels, of a UNet without an encoder"
    )
    facts.add_argument(
        "--heads_up", type=int, help="heads on the way up (guided-diffusion's num_heads_upsample)"
    )
    facts.add_argument(
        "--schedule",
        help="noise schedule: linear, scaled_linear, cosine, sigmoid, constant or karras, with its "
        "ends where they are others, as in linear:0.0001,0.02",
    )
    facts.add_argument("--T", type=int, help="number of times of the noise schedule")
    facts.add_argument(
        "--predicts",
        choices=("eps", "x_0", "v", "edm", "consistency"),
        help="what the network predicts (x_0: predict_xstart; edm, consistency: x_0 by the "
        "scalings of those models)",
    )
    facts.add_argument(
        "--reads",
        choices=("t", "t_of_1000", "quarter_log_sigma", "250_log_sigma"),
        help="what the network reads of t (t_of_1000: rescale_timesteps)",
    )
    facts.add_argument("--class_label", type=int, help="class to keep of a class-conditional UNet")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    # Imported late: --help needs none of it.
    from pdae_jax.convert.conversion import convert, export

    if args.to_torch:
        if len(args.source) != 1 or args.output:
            raise ValueError("--to-torch=FILE takes the directory of one model, and no --output")
        others = [
            name
            for name, value in vars(args).items()
            if name not in ("source", "to_torch") and value != parser().get_default(name)
        ]
        if others:
            raise ValueError(f"--{others[0]} would be unused with --to-torch; leave it out")
        export(args.source[0], args.to_torch)
        print(f"written: {args.to_torch}")
        return 0
    if not args.output:
        raise ValueError("no output: give --output=DIR")
    flags = {name: getattr(args, name) for name in FACTS if getattr(args, name) is not None}
    if args.verify and importlib.util.find_spec("torch") is None:
        raise ImportError("--verify needs PyTorch: pip install 'pdae_jax[convert]'")
    receipt = convert(
        args.source,
        args.output,
        weights=args.weights,
        config=args.config,
        flags=flags,
        class_label=args.class_label,
        images=args.images,
    )
    if args.verify:
        if not receipt["architecture"]:
            raise ValueError(
                f"{args.output} is written, but not verified: the twin has no networks of metrics"
            )
        from pdae_jax.convert.verification import verify

        return 0 if verify(args.output) else 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print(
            "convert_torch_weights: interrupted; what is not said to be written is not there",
            file=sys.stderr,
        )
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        from pdae_jax.runtime.choices import printable

        said = printable(" ".join(str(error).split()))
        print(f"convert_torch_weights: {said}", file=sys.stderr)
        sys.exit(2)
