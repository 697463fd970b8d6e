#!/usr/bin/env python3
"""Rewrite the tables of the nodes' help pages from a running ComfyUI that has this pack.

    python3 scripts/help_tables.py http://127.0.0.1:8188

In web/docs/<node id>/en.md and zh.md everything from the heading of the inputs on is made anew: names, types, defaults
and ranges from /object_info, the texts from the tooltips (English) and from locales/zh (Chinese). What stands above is
written by hand and stays. tests/test_help.py compares both with the server.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = REPOSITORY / "web" / "docs"
WORDS = {
    "en": {
        "inputs": "## Inputs",
        "input columns": "| Input | Type | Default | Range | What it does |",
        "outputs": "## Outputs",
        "output columns": "| Output | Type | What it is |",
        "to": " to ",
        "optional": " (optional)",
        "own files": "own files",
    },
    "zh": {
        "inputs": "## 输入",
        "input columns": "| 输入 | 类型 | 默认值 | 范围 | 作用 |",
        "outputs": "## 输出",
        "output columns": "| 输出 | 类型 | 说明 |",
        "to": " 至 ",
        "optional": "（可选）",
        "own files": "自己的文件",
    },
}
OWN_FILES = ("LoadMuseTalkModels", "version")  # its list goes on with what lies in models/musetalk


def tables(node: str, info: dict[str, Any], language: str) -> str:
    """Both tables of a node's page."""
    words = WORDS[language]
    texts = json.loads((REPOSITORY / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))[node]
    lines = [words["inputs"], "", words["input columns"], "|---|---|---|---|---|"]
    for kind in ("required", "optional"):
        for name, (type_, *options) in info["input"].get(kind, {}).items():
            given = options[0] if options else {}
            shown = type_ + (words["optional"] if kind == "optional" else "")
            default = f"`{_plain(given['default'])}`" if "default" in given else ""
            allowed = _range(given, words)
            if (node, name) == OWN_FILES:
                allowed += f", {words['own files']}"
            label = _label(name, texts["inputs"][name]["name"], language)
            lines.append(f"| {label} | {shown} | {default} | {allowed} | {texts['inputs'][name]['tooltip']} |")
    lines += ["", words["outputs"], "", words["output columns"], "|---|---|---|"]
    for i, (name, type_) in enumerate(zip(info["output_name"], info["output"], strict=True)):
        text = texts["outputs"][str(i)]
        lines.append(f"| {_label(name, text['name'], language)} | {type_} | {text['tooltip']} |")
    return "\n".join(lines) + "\n"


def _label(name: str, shown: str, language: str) -> str:
    """What the node shows beside the name, where that is another word."""
    return f"`{name}`" if language == "en" else f"`{name}` {shown}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _range(given: dict[str, Any], words: dict[str, str]) -> str:
    if "options" in given:
        return ", ".join(given["options"])
    return f"{_plain(given['min'])}{words['to']}{_plain(given['max'])}" if "min" in given else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("url", help="of the running ComfyUI")
    with urllib.request.urlopen(parser.parse_args().url.rstrip("/") + "/object_info", timeout=60) as answer:
        nodes = json.load(answer)
    for page in sorted(PAGES.glob("*/*.md")):
        node, words = page.parent.name, WORDS[page.stem]
        above = page.read_text(encoding="utf-8").split(words["inputs"])[0]
        page.write_text(above + tables(node, nodes[node], page.stem), encoding="utf-8")
        print(page.relative_to(REPOSITORY))
    return 0


if __name__ == "__main__":
    sys.exit(main())
