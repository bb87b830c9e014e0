"""What TF32 does to codes and reconstructions, without a card that has it.

    python -m benchmarks.tf32                               # the model that ships, its pictures
    python -m benchmarks.tf32 --workdir runs/mine --pictures pictures/

A tensor core rounds what it multiplies to TF32's 10 bits of mantissa, and adds in float32. Here the
operands of every convolution and matrix product are rounded so; sums are in this machine's order.
"""

import argparse
import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import primitives

from benchmarks import where_and_when
from pdae_jax import images
from pdae_jax.model import load
from pdae_jax.workdir import shipped

PRODUCTS = (primitives.dot_general_p, primitives.conv_general_dilated_p)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", default="emoji", help="the model (default emoji, that ships)")
    parser.add_argument("--pictures", help="a folder (default those that ship beside the model)")
    args = parser.parse_args(argv)
    if not args.pictures and args.workdir not in shipped.names():
        parser.error(f"--workdir={args.workdir} needs --pictures: none ship beside it")
    pictures = args.pictures or shipped.folder() / args.workdir / "pictures"
    float32 = measured(args.workdir, pictures)
    with tf32():
        rounded = measured(args.workdir, pictures)
    z = float32.pop("z")
    moved = np.sqrt(np.mean(((rounded["z"] - z) / z.std(0)) ** 2))
    print(f"z moves by {moved:.2g} of these pictures' standard deviations (root mean square)\n")
    print("| MSE, of pictures in [0, 1] | float32 | TF32 |\n| --- | --- | --- |")
    for name, error in float32.items():
        print(f"| {name} | {error:.4g} | {rounded[name]:.4g} |")
    print(f"\n{args.workdir}, {len(z)} pictures, on {where_and_when()}")


def measured(workdir: str, pictures: Any) -> dict[str, Any]:
    """Codes, and errors of decoding them."""
    model = load(workdir)
    given = images.load(pictures, model)
    z, x_0 = model.encode(given), images.to_float(given)

    def error(decoded: np.ndarray) -> float:
        return float(np.mean(((decoded - x_0) / 2) ** 2))  # of pictures in [0, 1], as `evaluate`

    return {
        "z": z,
        "from z alone": error(model.decode(z, temperature=0)),
        "from z and the inferred x_T": error(model.reconstruct(given)),
    }


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Within, whatever is traced multiplies as a tensor core does in float32.

    Where a product asks for all of float32 no tensor core is used.
    """
    binds = [primitive.bind for primitive in PRODUCTS]

    def bind(exact: Any, *operands: Any, **how: Any) -> Any:
        asked = how["precision"] or (jax.lax.Precision.DEFAULT,)
        if jax.lax.Precision.HIGHEST not in asked:
            operands = tuple(jax.lax.reduce_precision(a, 8, 10) for a in operands)
        return exact(*operands, **how)

    jax.clear_caches()
    for primitive, exact in zip(PRODUCTS, binds):
        primitive.bind = functools.partial(bind, exact)
    try:
        yield
    finally:
        for primitive in PRODUCTS:
            del primitive.bind
        jax.clear_caches()


if __name__ == "__main__":
    main()
