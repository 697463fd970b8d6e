"""The pack in ComfyUI's real page, in Chromium, with both ways it draws nodes: workflows, templates, help, Chinese."""

import json
from pathlib import Path

import pytest
from comfy_client import REPOSITORY
from page_client import NODES_2

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
ALL_IN_ONE, DISCRETE, LONG_VIDEO = (
    REPOSITORY / "workflows" / f"musetalk_{name}.json" for name in ("all_in_one", "discrete", "long_video")
)
# Nodes of ComfyUI-MuseV; one shipped workflow shows how to go on after it.
MUSEV = {"MuseVRun", "MuseVRunVid2Vid"}
PAGE_INPUTS = {"audioUI", "preview", "video-preview"}

both_renderers = pytest.mark.parametrize("settings", [{}, NODES_2], ids=["classic", "nodes_2"])


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflow_loads_with_no_missing_node_and_no_dialog(open_page, path):
    page = open_page({})
    page.load(path)
    check_loaded(page, path)
    page.close_dialogs()
    page.change(NODES_2)
    page.load(path)
    page.wait_for_dom_nodes()
    check_loaded(page, path)


def check_loaded(page, path):
    foreign = {node["type"] for node in load(path)["nodes"]} & MUSEV
    assert page.missing_nodes() == foreign
    if foreign:
        named = [line for line in page.dialog().inner_text().splitlines() if line and " " not in line]
        assert sorted(named) == sorted(foreign)
    else:
        assert page.dialogs() == []
        assert work_of(page.prompt()) == work_of(load(path.parent / "api" / path.name))


def work_of(prompt):
    """Class and inputs by node id, without the page's own widgets, which no node reads."""
    return {
        key: (node["class_type"], {name: value for name, value in node["inputs"].items() if name not in PAGE_INPUTS})
        for key, node in prompt.items()
    }


@both_renderers
@pytest.mark.parametrize("path", [ALL_IN_ONE, LONG_VIDEO], ids=name_of)
def test_demo_workflow_runs_and_shows_its_video(open_page, path, settings):
    page = open_page(settings)
    page.load(path)
    assert page.run() == ""
    page.wait_for_video(path.stem)
    assert page.dialogs() == []


def test_template_browser_lists_the_pack_with_thumbnails(open_page):
    page = open_page({})
    cards = page.open_templates()
    names = [card.get_attribute("data-testid").removeprefix("template-workflow-") for card in cards.all()]
    assert sorted(names) == [path.stem for path in WORKFLOWS]
    pictures = {}
    for name, card in zip(names, cards.all(), strict=True):
        card.scroll_into_view_if_needed()  # pictures are loaded when they are seen
        pictures[name] = card.locator("img").get_attribute("src")
    assert [name for name, source in pictures.items() if "default-template" in source] == []
    page.page.get_by_test_id("template-workflow-musetalk_discrete").click()
    page.wait_for_nodes(DISCRETE)
    assert page.missing_nodes() == set() and page.dialogs() == []


@both_renderers
def test_help_of_a_node_opens_with_our_page(open_page, settings):
    page = open_page(settings)
    page.load(ALL_IN_ONE)
    text = page.open_help("MuseTalkLipSync").inner_text()
    assert "The whole chain in one node" in text and "batch_size" in text
    assert "Inputs" in text and "Outputs" in text


@both_renderers
def test_chinese_page_has_chinese_nodes_and_help(open_page, settings):
    page = open_page({**settings, "Comfy.Locale": "zh"})
    page.load(DISCRETE)
    texts = load(REPOSITORY / "locales" / "zh" / "nodeDefs.json")
    ours = page.page.evaluate("""() => app.graph.nodes.filter(node => /MuseTalk/.test(node.type)).map(node => ({
        type: node.type, title: node.title,
        inputs: Object.fromEntries(node.inputs.map(slot => [slot.name, slot.label || slot.localized_name])),
        outputs: node.outputs.map(slot => slot.label || slot.localized_name)}))""")
    assert len(ours) == 8
    for node in ours:
        expected = texts[node["type"]]
        assert node["title"] == expected["display_name"]
        assert node["inputs"] == {name: expected["inputs"][name]["name"] for name in node["inputs"]}
        assert node["outputs"] == [expected["outputs"][str(i)]["name"] for i in range(len(node["outputs"]))]
    if settings:
        page.page.get_by_text(texts["MuseTalkUNetStep"]["display_name"]).first.wait_for()
    heading = (REPOSITORY / "web/docs/MuseTalkUNetStep/zh.md").read_text(encoding="utf-8").splitlines()[0]
    assert heading.removeprefix("# ") in page.open_help("MuseTalkUNetStep").inner_text()


def test_language_switched_in_the_page_switches_the_nodes(open_page):
    page = open_page({})
    page.load(DISCRETE)
    texts = {language: load(REPOSITORY / "locales" / language / "nodeDefs.json") for language in ("en", "zh")}
    title = "title => app.graph.nodes.find(node => node.type === 'MuseTalkMatchFrames')?.title === title"
    for language in ("zh", "en"):
        page.change({"Comfy.Locale": language})
        page.page.wait_for_function(title, arg=texts[language]["MuseTalkMatchFrames"]["display_name"])
