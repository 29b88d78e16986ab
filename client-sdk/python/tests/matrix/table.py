"""Prints the matrix as Markdown, and writes it beside the figures as matrix.md and matrix.json."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any


def main(here: Path, figures: Path) -> None:
    rows = [line.split() for line in (here / "rows.txt").read_text().splitlines() if not line.startswith("#")]
    calling = here.parent / "install" / "rows"
    table = [
        row_of(name, packages, here, figures) for name, module, *packages in rows if (calling / f"{module}_.py").exists()
    ]
    lines = [
        "| packages | ways to call | refused calls that reached the server | calls tried again | cut within, at most | raised within, at most |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            "| {packages} | {ways} | {reached} | {tried_again} | {cut_ms} ms | {refused_ms} ms |".format(**row)
            if row["ways"]
            else "| {packages} | not run | | | | |".format(**row)
            for row in table
        ),
    ]
    text = "\n".join(lines) + "\n"
    (figures.parent / "matrix.md").write_text(text)
    (figures.parent / "matrix.json").write_text(json.dumps(table, indent=1) + "\n")
    print(text, end="")


def row_of(name: str, packages: list[str], here: Path, figures: Path) -> dict[str, Any]:
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (here / f"{name}.txt").read_text(), re.MULTILINE))
    named = [re.split(r"[<>=\[]", package)[0] for package in packages]
    file = figures / f"{name}.json"
    ways: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    return {
        "row": name,
        "packages": ", ".join(f"{package} {pinned[package]}" for package in named if package != "httpx"),
        "ways": len(ways),
        "reached": sum(way["reached"] for way in ways.values()),
        "tried_again": sum(way["tried"] + way["attempts"] - 2 for way in ways.values()),
        "cut_ms": max((way["cut_ms"] for way in ways.values()), default=None),
        "refused_ms": max((way["refused_ms"] for way in ways.values()), default=None),
        "each": ways,
    }


main(Path(sys.argv[1]), Path(sys.argv[2]))
