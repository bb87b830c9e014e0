#!/usr/bin/env python3
"""Packs a trained model as it ships with the package: weights in float16, and its records.

    python tools/pack_model.py runs/emoji pdae_jax/models/emoji

The folder is package data; `pdae_jax.load("emoji")` and --workdir=emoji unpack it.
"""

import sys


def main(argv: list[str]) -> int:
    from pdae_jax.workdir import shipped

    if len(argv) != 2:
        raise ValueError("give two folders: the workdir, and the one to pack it into")
    packed = shipped.pack(*argv)
    size = sum(path.stat().st_size for path in packed.rglob("*") if path.is_file())
    print(f"{packed}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ValueError, OSError) as error:
        print(f"pack_model: {error}", file=sys.stderr)
        sys.exit(2)
