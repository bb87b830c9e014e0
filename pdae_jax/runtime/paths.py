"""Paths as people type them: of this machine's folders, which a bucket's address is not."""

import os
import re
from pathlib import Path


def local(path: str | os.PathLike[str]) -> Path:
    """A path with its ~ resolved; ValueError for an address such as gs://BUCKET/FOLDER."""
    address = re.match(r"(\w+):/+(([^/]*).*)", os.fspath(path))
    if address and len(address[1]) > 1:  # one letter is a drive
        kind, place, bucket = address.groups()
        mount = (
            f"mount it (gcsfuse --implicit-dirs --rename-dir-limit=100000 {bucket} FOLDER) and "
            f"give FOLDER{place[len(bucket) :]}"
            if kind == "gs"
            else "mount it as a folder, or copy it to one, and give that"
        )
        raise ValueError(
            f"{path} is an address, and only folders of this machine are used: {mount}"
        )
    return Path(path).expanduser()


def natural(text: str) -> tuple[list[str | int], str]:
    """Sort key under which numbers in a text count as numbers: `img2` before `img10`."""
    parts = re.split(r"(\d+)", text.replace("\\", "/"))
    return [int(part) if k % 2 else part.casefold() for k, part in enumerate(parts)], text
