"""Text and numbers as HTML."""

import html
import math
import numbers
import re
from typing import Any


def inline(text: str) -> str:
    """Escaped text, with what stands in backticks as code."""
    parts = re.split(r"`([^`]+)`", str(text))
    return "".join(
        f"<code>{html.escape(part)}</code>" if i % 2 else html.escape(part)
        for i, part in enumerate(parts)
    )


def plain(text: str) -> str:
    """Escaped text for attributes and titles, which have no markup."""
    return html.escape(str(text).replace("`", ""))


def paragraphs(text: str) -> str:
    """Text as paragraphs, parted by an empty line."""
    return "".join(
        f"<p>{inline(part.strip())}</p>\n" for part in re.split(r"\n\s*\n", text) if part.strip()
    )


def number(value: Any) -> str:
    """A number for people: whole numbers in full, others to four digits; strings as given."""
    value = value.item() if hasattr(value, "item") else value  # array scalars
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return "–" if value is None else str(value)
    if isinstance(value, numbers.Integral):
        return minus(f"{int(value):,}")
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6:
        return minus(f"{int(value):,}")
    if 1e4 <= abs(value) < 1e7:
        return minus(f"{value:,.0f}")
    return minus(f"{value:#.4g}")


def minus(text: str) -> str:
    """A formatted number with 1e-05 as 1e-5, and a leading sign as wide as a digit."""
    return re.sub(r"^-", "−", re.sub(r"\.?(e[+-])0*", lambda m: m[1].replace("+", ""), text))


def figure(kind: str, inner: str, caption: str) -> str:
    """HTML as a figure of class `kind`, with its caption below."""
    note = f"<figcaption>{inline(caption)}</figcaption>\n" if caption else ""
    return f'<figure class="{kind}">\n{inner}{note}</figure>\n'
