"""The style sheet's colours, for what has no style sheet."""

import colorsys
import functools
import re
from importlib import resources


@functools.cache
def style_sheet() -> str:
    return resources.files("pdae_jax.pages").joinpath("style.css").read_text(encoding="utf-8")


@functools.cache
def _light() -> dict[str, str]:
    """The variables of the light mode, which stand before those of the dark one."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"(--[\w-]+): ([^;}]+?)\s*[;}]", style_sheet()):
        found.setdefault(name, value)
    return found


def rgb(css: str) -> tuple[float, float, float]:
    """Red, green and blue from 0 to 1 of a CSS colour that pages use, in the light mode.

    #rgb, #rrggbb, hsl(H S% L%), where L may be calc(A% + B%); and variables of the style sheet.
    """
    while variable := re.search(r"var\((--[\w-]+)\)", css):
        css = css.replace(variable[0], _light()[variable[1]])
    if css.startswith("#"):
        digits = css[1:] if len(css) == 7 else "".join(2 * digit for digit in css[1:])
        red, green, blue = (int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4))
        return red, green, blue
    hue, saturation, *lightness = (float(word) for word in re.findall(r"-?\d+(?:\.\d+)?", css))
    return colorsys.hls_to_rgb(hue / 360, sum(lightness) / 100, saturation / 100)
