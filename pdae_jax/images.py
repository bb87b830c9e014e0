"""Arrays as pictures: to uint8, and many in one grid."""

import einops
import numpy as np


def to_uint8(x) -> np.ndarray:
    """[-1, 1] -> uint8 by floor(clip(127.5 x + 127.5 + 0.5, 0, 255)), the rounding of PNGs."""
    return np.floor(np.clip(np.asarray(x, np.float32) * 127.5 + 128.0, 0, 255)).astype(np.uint8)


def visible(images: np.ndarray) -> np.ndarray:
    """[..., C] -> [..., 1 or 3]: what a screen can show of C channels, the first ones."""
    return images[..., : 3 if images.shape[-1] >= 3 else 1]


def grid(rows, gap: int = 2) -> np.ndarray:
    """Rows of pictures as one: each row uint8 [n, H, W, C], on white -> uint8 [H', W', C or 3].

    Channels beyond 3 are left out; 2 become the first alone.
    """
    columns = max(len(row) for row in rows)
    rows = [visible(row) for row in rows]
    padding = ((0, gap), (0, gap), (0, 0))
    rows = [np.pad(row, ((0, columns - len(row)), *padding), constant_values=255) for row in rows]
    sheet = einops.rearrange(rows, "rows columns H W C -> (rows H) (columns W) C")
    return sheet[: len(sheet) - gap, : sheet.shape[1] - gap]
