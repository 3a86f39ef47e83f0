"""MkDocs' hooks: adds the pages that docs/generate.py makes, and those of the repository's root."""

from __future__ import annotations

from pathlib import Path

from generate import GENERATED, INCLUDED, site_links
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages that are no files of docs/."""
    root = Path(config.config_file_path).parent
    for page, source in INCLUDED.items():
        files.append(File.generated(config, page, content=(root / source).read_text(encoding="utf-8")))
    for page, make in GENERATED.items():
        files.append(File.generated(config, page, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository, as links of the site."""
    path = page.file.src_uri
    return markdown if path in GENERATED else site_links(markdown, INCLUDED.get(path, f"docs/{path}"), path)
