"""Help pages and locales against what a real ComfyUI says of the nodes: names, types, defaults, ranges, texts."""

import json
import re
from collections import Counter
from typing import Any

import pytest
from comfy_client import REPOSITORY, ComfyServer

PAGES = REPOSITORY / "web" / "docs"
NODES = sorted(folder.name for folder in PAGES.iterdir())
LANGUAGES = ("en", "zh")
HEADINGS = {"en": ("Overview", "Inputs", "Outputs"), "zh": ("概述", "输入", "输出")}
LARGEST_PICTURE = 60_000
HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def schemas(comfy: ComfyServer) -> dict[str, Any]:
    """The pack's part of /object_info."""
    infos = comfy.ask("/object_info")
    return {name: info for name, info in infos.items() if info["python_module"] == "custom_nodes.musetalk-suite"}


def page(node: str, language: str) -> str:
    return (PAGES / node / f"{language}.md").read_text(encoding="utf-8")


def locale(language: str) -> dict[str, Any]:
    return json.loads((REPOSITORY / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def inputs(info: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any], bool]]:
    """Type, options and whether it is optional of every input, in the order of the node."""
    return {
        name: (spec[0], spec[1] if len(spec) > 1 else {}, kind == "optional")
        for kind in ("required", "optional")
        for name, spec in info["input"].get(kind, {}).items()
    }


def cells(text: str, heading: str) -> list[list[str]]:
    """The rows of the table below a heading, without its two head lines."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[2:]]


def name_of(cell: str) -> str:
    return re.fullmatch(r"`(\w+)`.*", cell)[1]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_every_node_has_its_pages_and_no_page_is_left_over(schemas):
    assert sorted(schemas) == NODES
    assert all((PAGES / node / f"{language}.md").is_file() for node in NODES for language in LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_page_has_the_nodes_name_and_the_usual_parts(schemas, node, language):
    text = page(node, language)
    title = schemas[node]["display_name"] if language == "en" else locale("zh")[node]["display_name"]
    assert text.startswith(f"# {title}\n")
    assert tuple(re.findall(r"^## (.*)$", text, re.M)) == HEADINGS[language]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_table_of_inputs_is_the_schema(schemas, node, language):
    rows = cells(page(node, language), HEADINGS[language][1])
    specs = inputs(schemas[node])
    assert [name_of(row[0]) for row in rows] == list(specs)
    for name, kind, default, allowed, _ in rows:
        type_, options, optional = specs[name_of(name)]
        assert re.fullmatch(rf"{type_}( \(optional\)|（可选）)?", kind), (name, kind)
        assert optional == (kind != type_), (name, kind)
        if isinstance(options.get("default"), bool):
            assert default.strip("`") == str(options["default"]), name
        elif isinstance(options.get("default"), int | float):
            assert numbers(default) == [options["default"]], name
        else:
            assert default.strip("`") == str(options.get("default", "")), name
        if "options" in options:
            assert allowed.startswith(", ".join(options["options"])), name
        else:
            assert numbers(allowed) == [options[end] for end in ("min", "max") if end in options], name


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_table_of_outputs_is_the_schema(schemas, node, language):
    rows = cells(page(node, language), HEADINGS[language][2])
    info = schemas[node]
    assert [(name_of(name), kind) for name, kind, _ in rows] == list(
        zip(info["output_name"], info["output"], strict=True)
    )


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_texts_of_the_tables_are_those_of_the_node(node, language):
    """The English locale is compared with the schema below."""
    known = locale(language)[node]
    told = [row[-1] for heading in HEADINGS[language][1:] for row in cells(page(node, language), heading)]
    assert told == [item["tooltip"] for part in ("inputs", "outputs") for item in known[part].values()]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_pictures_come_where_the_page_looks_for_them(comfy, node, language):
    """ComfyUI's page takes pictures relative to web/docs, not to the page's own folder."""
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page(node, language))
    assert pictures
    for _, path in pictures:
        picture = comfy.read(f"/extensions/musetalk-suite/docs/{path}")
        assert picture[:3] == b"\xff\xd8\xff" and len(picture) <= LARGEST_PICTURE, (path, len(picture))
    texts = [text for text, _ in pictures]
    assert all(bool(HAN.search(text)) == (language == "zh") for text in texts), texts


def test_english_locale_is_the_schema(schemas):
    known = locale("en")
    assert sorted(known) == sorted(schemas)
    for node, info in schemas.items():
        assert known[node]["display_name"] == info["display_name"]
        assert known[node]["description"] == info["description"]
        tooltips = {name: options["tooltip"] for name, (_, options, _) in inputs(info).items()}
        assert {name: item["tooltip"] for name, item in known[node]["inputs"].items()} == tooltips
        assert [item["tooltip"] for item in known[node]["outputs"].values()] == info["output_tooltips"]


def test_chinese_locale_has_the_same_entries_all_in_chinese():
    english, chinese = locale("en"), locale("zh")
    assert list(chinese) == list(english)
    for node, known in english.items():
        assert HAN.search(chinese[node]["display_name"]) and HAN.search(chinese[node]["description"]), node
        for part in ("inputs", "outputs"):
            assert list(chinese[node][part]) == list(known[part]), (node, part)
            for key, item in chinese[node][part].items():
                assert item["name"] and HAN.search(item["tooltip"]), (node, part, key)


def translations() -> list[tuple[str, str]]:
    """Every English text beside its Chinese one."""
    english, chinese = locale("en"), locale("zh")
    pairs = [(known["description"], chinese[node]["description"]) for node, known in english.items()]
    for node, known in english.items():
        for part in ("inputs", "outputs"):
            pairs += [(item["tooltip"], chinese[node][part][key]["tooltip"]) for key, item in known[part].items()]
    return pairs


def test_translations_keep_the_numbers():
    for english, chinese in translations():
        found = Counter(re.findall(r"\d+(?:\.\d+)?", english))
        assert Counter(re.findall(r"\d+(?:\.\d+)?", chinese)) == found, (english, chinese)


def test_translations_explain_the_same_choices(schemas):
    chinese = locale("zh")
    for node, info in schemas.items():
        for name, (_, options, _) in inputs(info).items():
            told = [choice for choice in options.get("options", []) if f"{choice}:" in options["tooltip"]]
            text = chinese[node]["inputs"][name]["tooltip"]
            assert [choice for choice in told if f"{choice}：" not in text] == [], (node, name)


def test_one_text_has_one_translation_and_none_is_used_for_two():
    pairs = set(translations())
    for side in (0, 1):
        often = [text for text, count in Counter(pair[side] for pair in pairs).items() if count > 1]
        assert often == [], [pair for pair in pairs if pair[side] in often]


def test_chinese_texts_are_not_cut_short():
    """A Chinese sentence needs about a third of the letters; what has less than a sixth has lost something."""
    short = [(e, c) for e, c in translations() if len(c) < len(e) / 6]
    assert short == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_locale_is_what_the_server_gives_the_page(comfy, language):
    assert comfy.ask("/i18n")[language]["nodeDefs"] == locale(language)


def test_nodes_are_called_by_their_names():
    names = {language: {node["display_name"] for node in locale(language).values()} for language in LANGUAGES}
    for path in sorted(PAGES.rglob("*.md")):
        quoted = r"\*([^*]*\(MuseTalk\))\*" if path.stem == "en" else r"“([^”]*（MuseTalk）)”"
        told = re.findall(quoted, path.read_text(encoding="utf-8"))
        assert [name for name in told if name not in names[path.stem]] == [], path


def test_pages_fetch_nothing_from_elsewhere():
    """ComfyUI's help must work without a network."""
    for path in sorted(PAGES.rglob("*.md")):
        assert not re.search(r"\]\(https?:", path.read_text(encoding="utf-8")), path
