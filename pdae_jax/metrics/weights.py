"""The metrics' networks: the tensors of the weight files that a user supplies, and their shapes.

Names and [out, in, height, width] are the files' own: torchvision's AlexNet, LPIPS v0.1's heads
over it, and the Inception of FID.
"""

Shapes = dict[str, tuple[int, ...]]


def alexnet() -> Shapes:
    """AlexNet's convolutions; its classifier is not needed."""
    convolutions = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3),
                    8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    return {name: shape for k, kernel in convolutions.items()
            for name, shape in ((f"features.{k}.weight", kernel), (f"features.{k}.bias", kernel[:1]))}


def lpips() -> Shapes:
    """LPIPS v0.1's heads: one weight for each channel of the five ReLU maps."""
    return {f"lin{k}.model.1.weight": (1, width, 1, 1)
            for k, width in enumerate((64, 192, 384, 256, 256))}


def inception() -> Shapes:
    """Inception v3 as FID has it: each convolution with its batch norm, and the last layer."""
    shapes: Shapes = {}

    def conv(name: str, n_in: int, n_out: int, height: int = 1, width: int | None = None) -> int:
        shapes[f"{name}.conv.weight"] = (n_out, n_in, height, width or height)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = (n_out,)
        return n_out

    def chain(name: str, n: int, *layers) -> None:
        """layers: (branch, channels, height, width) one after another."""
        for branch, *size in layers:
            n = conv(f"{name}.branch{branch}", n, *size)

    conv("Conv2d_1a_3x3", 3, 32, 3)
    conv("Conv2d_2a_3x3", 32, 32, 3)
    conv("Conv2d_2b_3x3", 32, 64, 3)
    conv("Conv2d_3b_1x1", 64, 80)
    conv("Conv2d_4a_3x3", 80, 192, 3)
    for name, n, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        name = f"Mixed_{name}"
        chain(name, n, ("1x1", 64))
        chain(name, n, ("5x5_1", 48), ("5x5_2", 64, 5))
        chain(name, n, ("3x3dbl_1", 64), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3))
        chain(name, n, ("_pool", pool))
    chain("Mixed_6a", 288, ("3x3", 384, 3))
    chain("Mixed_6a", 288, ("3x3dbl_1", 64), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3))
    for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        name = f"Mixed_{name}"
        chain(name, 768, ("1x1", 192))
        chain(name, 768, ("7x7_1", c), ("7x7_2", c, 1, 7), ("7x7_3", 192, 7, 1))
        chain(name, 768, ("7x7dbl_1", c), ("7x7dbl_2", c, 7, 1), ("7x7dbl_3", c, 1, 7),
              ("7x7dbl_4", c, 7, 1), ("7x7dbl_5", 192, 1, 7))
        chain(name, 768, ("_pool", 192))
    chain("Mixed_7a", 768, ("3x3_1", 192), ("3x3_2", 320, 3))
    chain("Mixed_7a", 768, ("7x7x3_1", 192), ("7x7x3_2", 192, 1, 7), ("7x7x3_3", 192, 7, 1),
          ("7x7x3_4", 192, 3))
    for name, n in (("7b", 1280), ("7c", 2048)):
        name = f"Mixed_{name}"
        chain(name, n, ("1x1", 320))
        chain(name, n, ("3x3_1", 384), ("3x3_2a", 384, 1, 3))
        chain(name, 384, ("3x3_2b", 384, 3, 1))
        chain(name, n, ("3x3dbl_1", 448), ("3x3dbl_2", 384, 3), ("3x3dbl_3a", 384, 1, 3))
        chain(name, 384, ("3x3dbl_3b", 384, 3, 1))
        chain(name, n, ("_pool", 192))
    return shapes | {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
