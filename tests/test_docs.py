"""README and docs against the tree: links, commands, options, error sentences, sizes, nodes and workflows exist."""

import ast
import json
import re
from pathlib import Path

import pytest
from comfy_client import REPOSITORY

from musetalk_core.__main__ import main
from musetalk_core.weights.catalogue import UNET_V10, UNET_V15, VAE, WHISPER

README = REPOSITORY / "README.md"
DOCS = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:python -m musetalk_core|install\.py|^musetalk) (?P<name>[a-z]+)(?P<rest>[^`\n]*)", re.M)


def named(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_links_lead_to_files_of_the_repository(path):
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    near = [link.split("#")[0] for link in links if not re.match(r"https?://|#", link)]
    assert [link for link in near if not (path.parent / link).exists()] == []


def test_every_page_is_in_the_index_and_every_picture_is_shown():
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS if f"]({page.name})" not in index and page.name != "README.md"] == []
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS)
    pictures = [path.name for path in (REPOSITORY / "docs" / "images").iterdir()]
    assert [name for name in pictures if f"images/{name}" not in text] == []


def test_readme_is_short_and_shows_a_picture_first():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 220
    assert lines[2].startswith("![")


def test_readme_names_every_node_and_every_workflow():
    text = README.read_text(encoding="utf-8")
    nodes = json.loads((REPOSITORY / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    names = [node["display_name"].removesuffix(" (MuseTalk)") for node in nodes.values()]
    assert [name for name in names if f"| {name} |" not in text] == []
    workflows = [path.stem for path in (REPOSITORY / "workflows").glob("*.json")]
    assert [name for name in workflows if f"`{name}`" not in text] == []


def test_nodes_page_has_every_node_and_its_picture():
    text = (REPOSITORY / "docs" / "nodes.md").read_text(encoding="utf-8")
    for folder in (REPOSITORY / "web" / "docs").iterdir():
        assert f"../web/docs/{folder.name}/en.md" in text
        assert re.search(rf"!\[[^\]]+\]\(\.\./web/docs/{folder.name}/\w+\.jpg\)", text), folder.name


def shown_help(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0, command
    return capsys.readouterr().out


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_commands_and_their_options_exist(path, capsys):
    for found in COMMAND.finditer(path.read_text(encoding="utf-8").replace("\\\n", " ")):
        words = found["rest"].split("#")[0].split()
        action = (
            words[0] if found["name"] in ("avatar", "weights", "train") and words and words[0][:1].isalpha() else ""
        )
        help_text = shown_help(f"{found['name']} {action}".strip(), capsys)
        options = [word.split("=")[0] for word in words if word.startswith("--")]
        assert [option for option in options if option not in help_text] == [], found[0]


@pytest.mark.parametrize("path", DOCS, ids=named)
def test_programs_and_targets_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    files = re.findall(r"(?<![\w/])((?:scripts|tests|benchmarks|workflows|assets)/[\w/.-]+\.\w+)", text)
    assert [name for name in files if not (REPOSITORY / name).is_file()] == []
    targets = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def sentences() -> list[str]:
    """Every string of the core and the nodes, the parts of formatted ones apart."""
    files = [*(REPOSITORY / "musetalk_core").rglob("*.py"), *(REPOSITORY / "nodes").glob("*.py")]
    walks = (ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in files)
    constants = (node.value for walk in walks for node in walk if isinstance(node, ast.Constant))
    return [value for value in constants if isinstance(value, str)]


@pytest.mark.parametrize("path", [README, REPOSITORY / "docs" / "troubleshooting.md"], ids=named)
def test_error_sentences_of_the_tables_are_ours(path):
    """In the first column, in italics, with dots for what differs."""
    rows = [line.split("|")[1] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    told = [quoted for cell in rows for quoted in re.findall(r"\*([^*]*…[^*]*)\*", cell)]
    assert len(told) >= 3
    known = sentences()
    for quoted in told:
        for part in (part.strip(" ()") for part in quoted.split("…")):
            assert any(part in text for text in known), (quoted, part)


def test_weights_are_told_with_their_places_and_sizes():
    page = (REPOSITORY / "docs" / "weights.md").read_text(encoding="utf-8")
    for entry in (UNET_V15, UNET_V10, VAE, WHISPER):
        file = entry.files[0]
        size = f"{file.size / 1e9:.2f} GB" if file.size > 1e9 else f"{file.size / 1e6:.0f} MB"
        assert re.search(rf"`{re.escape(file.path)}` \|[^|]+\| {size} \|", page), file.path
