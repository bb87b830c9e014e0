"""Links of the site into the source lead to a copy of it; where there is no such file, it fails."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(\.\./([\w./-]+)\)")


def on_files(files, config):
    """Files that pages link to outside of docs/ are part of the site, as text."""
    pages = sorted((ROOT / "docs").glob("*.md"))
    for name in sorted({name for page in pages for name in LINK.findall(page.read_text())}):
        content = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, f"source/{name}.txt", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    return LINK.sub(r"](source/\1.txt)", markdown)
