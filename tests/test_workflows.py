"""The shipped workflows: sound graphs, notes, thumbnails, model links, API twins, and each runs on a real server."""

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from comfy_client import (
    PAGE_ONLY,
    REPOSITORY,
    SUBGRAPH_INPUT,
    SUBGRAPH_OUTPUT,
    ComfyServer,
    link_fields,
    prompt_of,
    start_server,
    stop_server,
)
from PIL import Image

from musetalk_core.weights.catalogue import GROUPS

WORKFLOWS = REPOSITORY / "workflows"
PAGES = sorted(WORKFLOWS.glob("*.json"))
TWINS = sorted((WORKFLOWS / "api").glob("*.json"))
BLUEPRINT = REPOSITORY / "subgraphs" / "Lip Sync Step By Step (MuseTalk).json"
MUSEV, TUNING, EVALUATE = "musetalk_after_musev", "musetalk_first_frame_tuning", "musetalk_evaluate"
REALTIME = "musetalk_realtime"
NAMES = {
    "musetalk_after_musev",
    "musetalk_after_musev_standin",
    "musetalk_all_in_one",
    "musetalk_avatar",
    "musetalk_batch",
    "musetalk_discrete",
    "musetalk_evaluate",
    "musetalk_faces_and_silence",
    "musetalk_first_frame_tuning",
    "musetalk_long_video",
    "musetalk_realtime",
    "musetalk_subgraph",
    "musetalk_two_speakers",
}
TITLE_HEIGHT = 30
TWO = "musetalk_two_speakers"
SMALL_INPUTS = {
    "LoadVideo": ("file", "portrait.mp4"),
    "LoadAudio": ("audio", "voice.wav"),
    "LoadImage": ("image", "portrait.png"),
}
# The node as chaojie/ComfyUI-MuseV declares it; like it, it returns one (batch,time,height,width,channels) tensor.
MUSEV_PACK = """
class MuseVRun:
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "MuseV"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "ref_image": ("IMAGE",),
            "prompt": ("STRING", {"default": ""}),
            "img_edge_ratio": ("FLOAT", {"default": 1.0}),
            "video_len": ("INT", {"default": 12}),
            "seed": ("INT", {"default": 1234}),
            "width": ("INT", {"default": 563}),
            "height": ("INT", {"default": 714}),
            "first_redraw_steps": ("INT", {"default": 30}),
            "video_steps": ("INT", {"default": 10}),
            "first_redraw_guidance_scale": ("FLOAT", {"default": 7.5}),
            "video_guidance_scale": ("FLOAT", {"default": 3.5}),
            "sd_model_name": (["majicmixRealv6Fp16", "fantasticmix_v10"], {"default": "majicmixRealv6Fp16"}),
            "uselcm": ("BOOLEAN", {"default": False}),
        }}

    def run(self, ref_image, video_len, **_):
        return ref_image[None].repeat(1, video_len, 1, 1, 1)


NODE_CLASS_MAPPINGS = {"MuseVRun": MuseVRun}
"""


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def subgraphs(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return workflow.get("definitions", {}).get("subgraphs", [])


def graphs(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The workflow itself and its subgraphs' definitions."""
    return [workflow, *subgraphs(workflow)]


def all_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for graph in graphs(workflow) for node in graph["nodes"]]


def each(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def musev(comfy_inputs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server that has, beside this pack, a node with ComfyUI-MuseV's sockets and widgets."""
    folder = tmp_path_factory.mktemp("musev")
    (folder / "__init__.py").write_text(MUSEV_PACK)
    picture = folder / "portrait.png"
    Image.fromarray(clips.portrait()).save(picture)
    packs = [f"--custom-node={REPOSITORY}", f"--custom-node=ComfyUI-MuseV={folder}"]
    server = start_server([*comfy_inputs, picture], *packs)
    yield server
    stop_server(server)


@pytest.fixture(scope="module")
def object_info(musev: ComfyServer) -> dict[str, Any]:
    return musev.ask("/object_info")


def test_templates_are_the_workflows_in_the_folder(comfy):
    assert {path.stem for path in PAGES} == NAMES
    assert set(comfy.ask("/api/workflow_templates")["musetalk-suite"]) == NAMES
    for path in PAGES:
        assert comfy.ask(f"/api/workflow_templates/musetalk-suite/{path.name}") == load(path)
        assert comfy.read(f"/api/workflow_templates/musetalk-suite/{path.stem}.jpg")


def test_blueprint_is_offered_and_holds_the_subgraph_of_the_workflow(comfy):
    (key,) = comfy.ask("/global_subgraphs")
    entry = comfy.ask(f"/global_subgraphs/{key}")
    blueprint = json.loads(entry["data"])
    assert entry["name"] == BLUEPRINT.stem and blueprint == load(BLUEPRINT)
    assert subgraphs(blueprint) == subgraphs(load(WORKFLOWS / "musetalk_subgraph.json"))
    (box,) = blueprint["nodes"]
    assert box["type"] == subgraphs(blueprint)[0]["id"] and subgraphs(blueprint)[0]["name"] == BLUEPRINT.stem


@each(PAGES)
def test_thumbnail_is_a_small_jpeg(path):
    file = path.with_suffix(".jpg")
    assert file.stat().st_size <= 100_000
    with Image.open(file) as picture:
        assert picture.format == "JPEG"
        assert 320 <= picture.height <= picture.width <= 1280


@each(PAGES)
def test_notes_say_what_it_does_and_what_to_change(path):
    notes = [node for node in load(path)["nodes"] if node["type"] == "MarkdownNote"]
    first, models = (note["widgets_values"][0] for note in notes)
    assert "**What it does**" in first and "**demo**" in models
    assert "**What to change" in first or "**A list**" in first


@each([*PAGES, BLUEPRINT])
def test_ids_are_unique_and_counted(path):
    workflow = load(path)
    nodes = [node["id"] for node in all_nodes(workflow)]
    links = [link_fields(link)[0] for graph in graphs(workflow) for link in graph["links"]]
    assert len(set(nodes)) == len(nodes)
    assert len(set(links)) == len(links)
    assert workflow["last_node_id"] >= max(node["id"] for node in workflow["nodes"])
    assert workflow["last_link_id"] >= max([link[0] for link in workflow["links"]], default=0)
    for graph in subgraphs(workflow):
        assert graph["state"]["lastNodeId"] >= max(node["id"] for node in graph["nodes"])
        assert graph["state"]["lastLinkId"] >= max(link["id"] for link in graph["links"])


@each([*PAGES, BLUEPRINT])
def test_links_and_sockets_name_one_another(path):
    workflow = load(path)
    for graph in graphs(workflow):
        nodes = {node["id"]: node for node in graph["nodes"]}
        links = {link[0]: link for link in map(link_fields, graph["links"])}
        for link, source, slot, target, socket, kind in links.values():
            if source != SUBGRAPH_INPUT:
                output = nodes[source]["outputs"][slot]
                assert link in output["links"] and output["type"] == kind
            else:
                assert link in graph["inputs"][slot]["linkIds"] and graph["inputs"][slot]["type"] == kind
            if target != SUBGRAPH_OUTPUT:
                assert nodes[target]["inputs"][socket]["link"] == link
                assert nodes[target]["inputs"][socket]["type"] in (kind, "*")
            else:
                assert graph["outputs"][socket]["linkIds"] == [link]
        ends = [link for node in nodes.values() for item in node["outputs"] for link in item["links"]]
        ends += [link for item in graph.get("inputs", []) for link in item["linkIds"]]
        starts = [item["link"] for node in nodes.values() for item in node["inputs"] if item["link"] is not None]
        starts += [link for item in graph.get("outputs", []) for link in item["linkIds"]]
        assert sorted(ends) == sorted(starts) == sorted(links)


@each([*PAGES, BLUEPRINT])
def test_sockets_are_those_of_the_nodes_in_the_page_s_order(path, object_info):
    """The page puts sockets before widgets, and finds a subgraph's widgets by the number of the slot."""
    workflow = load(path)
    own = {graph["id"]: graph for graph in subgraphs(workflow)}
    for node in all_nodes(workflow):
        widgets = ["widget" in item for item in node["inputs"]]
        assert widgets == sorted(widgets), node["type"]
        names = [item["name"] for item in node["inputs"]]
        if node["type"] in own:
            assert names == [item["name"] for item in own[node["type"]]["inputs"]]
        elif node["type"] not in PAGE_ONLY:
            info = object_info[node["type"]]
            specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
            assert sorted(names) == sorted(specs)
            assert [item["type"] for item in node["outputs"]] == info["output"]


@each(PAGES)
def test_nodes_are_known_and_only_one_workflow_needs_musev(path, comfy):
    known = {*comfy.ask("/object_info"), *PAGE_ONLY, *(graph["id"] for graph in subgraphs(load(path)))}
    unknown = {node["type"] for node in all_nodes(load(path))} - known
    assert unknown == ({"MuseVRun"} if path.stem == MUSEV else set())


@each(TWINS)
def test_values_are_allowed_by_the_nodes(path, object_info):
    for item in load(path).values():
        info = object_info[item["class_type"]]["input"]
        for name, (kind, *options) in {**info.get("required", {}), **info.get("optional", {})}.items():
            value, options = item["inputs"].get(name), options[0] if options else {}
            if kind in ("INT", "FLOAT") and not isinstance(value, list):
                assert options.get("min", value) <= value <= options.get("max", value), (item, name)
            choices = kind if isinstance(kind, list) else options.get("options")
            if choices and item["class_type"] not in SMALL_INPUTS and not isinstance(value, list):
                assert value in choices, (item, name)


@each(PAGES)
def test_api_twin_is_what_the_page_makes(path, object_info):
    twin = load(WORKFLOWS / "api" / path.name)
    workflow = load(path)
    titles = {str(node["id"]): node.get("title") for node in workflow["nodes"]}
    for key, item in twin.items():
        title = item.pop("_meta")["title"]
        assert title == (titles.get(key) or object_info[item["class_type"]]["display_name"])
    assert prompt_of(workflow, object_info) == twin


def test_every_twin_but_the_demo_has_its_page():
    assert {path.stem for path in TWINS} == NAMES | {"demo"}


@each([*PAGES, BLUEPRINT])
def test_nodes_do_not_overlap_and_links_run_to_the_right(path):
    for graph in graphs(load(path)):
        boxes = {
            node["id"]: (x, y - TITLE_HEIGHT, x + width, y + height)
            for node in graph["nodes"]
            for (x, y), (width, height) in [(node["pos"], node["size"])]
        }
        for (first, a), (second, b) in combinations(boxes.items(), 2):
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, (first, second)
        for _, source, _, target, _, _ in map(link_fields, graph["links"]):
            if source in boxes and target in boxes:
                assert boxes[source][0] <= boxes[target][0], (source, target)


@each(PAGES)
def test_every_node_but_notes_lies_in_one_titled_group(path):
    for graph in graphs(load(path)):
        assert all(group["title"] for group in graph["groups"])
        for node in graph["nodes"]:
            (x, y), (width, height) = node["pos"], node["size"]
            around = [
                left <= x and top <= y - TITLE_HEIGHT and x + width <= left + wide and y + height <= top + high
                for left, top, wide, high in (group["bounding"] for group in graph["groups"])
            ]
            assert sum(around) == (node["type"] != "MarkdownNote"), node


@each(PAGES)
def test_model_links_are_the_catalogue_s_and_open_no_dialog(path):
    """The page of 0.3.75 opens a dialog at loading for a listed file whose name a widget of the node holds."""
    workflow = load(path)
    files = [entry.files[0] for entry in GROUPS["v1.5"]]
    (loader,) = [node for node in workflow["nodes"] if node["type"] == "LoadMuseTalkModels"]
    models = loader["properties"]["models"]
    assert models == [{"name": file.path, "url": file.url, "directory": "musetalk"} for file in files]
    assert loader["widgets_values"] == ["demo", "auto"] and "models" not in workflow
    notes = "".join(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    for file in files:
        assert f"]({file.url})" in notes and f"*models/musetalk/{Path(file.path).parent}*" in notes


def small(path: Path) -> dict[str, Any]:
    """A twin on the tests' inputs: 12 frames of 256x256 (512x256 with two people) at 25 fps, or one picture, and 1 s of
    sound, half of it for each of two.
    """
    prompt = load(path)
    for item in prompt.values():
        if item["class_type"] in SMALL_INPUTS:
            name, value = SMALL_INPUTS[item["class_type"]]
            two = item["inputs"][name] == "demo_two_speakers.mp4"
            item["inputs"][name] = "two.mp4" if two else value
        elif item["class_type"] in ("TrimAudioDuration", "EmptyAudio"):
            item["inputs"]["duration"] = 0.5
            if item["inputs"].get("start_index", 0) > 0.5:
                item["inputs"]["start_index"] = 0.5
    return prompt


def only(prompt: dict[str, Any], kind: str) -> str:
    (key,) = [key for key, item in prompt.items() if item["class_type"] == kind]
    return key


def saved_video(server: ComfyServer, path: Path) -> Path:
    """Run a twin; the file of its one SaveVideo."""
    prompt = small(path)
    return server.file(server.run(prompt)[only(prompt, "SaveVideo")]["images"][0])


@each([path for path in TWINS if path.stem not in (MUSEV, EVALUATE, TUNING, REALTIME)])
def test_workflow_runs_to_a_video(comfy, path):
    facts = clips.probe(saved_video(comfy, path))
    assert (facts["frames"], facts["fps"], facts["size"]) == (25, 25, (256, 512 if path.stem == TWO else 256))
    assert abs(facts["audio_seconds"] - 1.0) < 0.05


def test_each_of_two_speakers_moves_with_their_own_line_only(comfy):
    """Without a voice of the second the first's half of every frame stays what it was, bit for bit."""
    prompt = small(WORKFLOWS / "api" / f"{TWO}.json")
    prompt = {key: item for key, item in prompt.items() if item["class_type"] not in ("CreateVideo", "SaveVideo")}
    _, second = (key for key, item in prompt.items() if item["class_type"] == "MuseTalkLipSync")
    nothing = {"class_type": "EmptyAudio", "inputs": {"duration": 1.0, "sample_rate": 16000, "channels": 1}}
    mute = {**prompt[second], "inputs": {**prompt[second]["inputs"], "audio": ["nothing", 0]}}
    prompt |= {"nothing": nothing, "mute": mute}
    for name, images in {"both": [second, 0], "muted": ["mute", 0], "source": ["4", 0]}.items():
        prompt[name] = {"class_type": "SaveImage", "inputs": {"images": images, "filename_prefix": f"test/{name}"}}
    outputs = comfy.run(prompt)
    both, muted, source = (
        np.stack([np.asarray(Image.open(comfy.file(item)))[..., :3] for item in outputs[name]["images"]])
        for name in ("both", "muted", "source")
    )
    assert (both[:, :, :256] == muted[:, :, :256]).all()
    assert (both[13:, :, 256:] != muted[13:, :, 256:]).any()
    assert (both[:12] != source)[:, :, :256].any() and (both[:12] != source)[:, :, 256:].any()
    reports = [outputs[key]["text"][0] for key, item in prompt.items() if item["class_type"] == "PreviewAny"]
    assert len(reports) == 2 and all("25 frames: 25 lip-synced" in report for report in reports)


def test_subgraph_gives_the_frames_of_the_discrete_chain(comfy):
    files = [saved_video(comfy, WORKFLOWS / "api" / f"musetalk_{name}.json") for name in ("discrete", "subgraph")]
    discrete, folded = map(clips.read_frames, files)
    assert (discrete == folded).all()


def test_first_frame_tuning_shows_frame_sweep_and_report(comfy):
    path = WORKFLOWS / "api" / f"{TUNING}.json"
    prompt = small(path)
    outputs = comfy.run(prompt)
    for key, item in prompt.items():
        if item["class_type"] == "PreviewImage":
            (picture,) = outputs[key]["images"]
            with Image.open(comfy.file(picture)) as sheet:
                assert sheet.width > 512
    assert "bbox_shift" in outputs[only(prompt, "PreviewAny")]["text"][0]


def test_evaluation_tells_three_reports_and_shows_both_clips_with_their_difference(comfy):
    prompt = small(WORKFLOWS / "api" / f"{EVALUATE}.json")
    outputs = comfy.run(prompt)
    shown = {item["_meta"]["title"]: outputs[key] for key, item in prompt.items() if key in outputs}
    lips, picture, frames = (
        shown[name]["text"][0] for name in ("Lips and sound", "Picture", "Frames that differ most")
    )
    assert "frames with a face: 1.000" in lips and "LSE-D: weights missing" in lips
    assert "CPBD" in picture and "seam energy over source" in picture and frames.startswith("25 frames")
    facts = clips.probe(comfy.file(shown["Save Video"]["images"][0]))
    assert (facts["frames"], facts["fps"], facts["size"]) == (25, 25, (256, 768))


def test_realtime_session_serves_its_page_and_says_where(comfy):
    path = WORKFLOWS / "api" / f"{REALTIME}.json"
    prompt = small(path)
    (text,) = comfy.run(prompt)[only(prompt, "MuseTalkRealtimeSession")]["text"]
    assert text == f"{comfy.url}/musetalk/"
    assert comfy.ask("/musetalk/api/avatars")["data"]["default"] == "demo"


def test_musev_s_frames_are_brought_to_25_and_speak(musev):
    facts = clips.probe(saved_video(musev, WORKFLOWS / "api" / f"{MUSEV}.json"))
    assert (facts["frames"], facts["fps"], facts["size"]) == (25, 25, (256, 256))


def test_batch_titles_are_unique_so_that_a_table_of_jobs_can_name_them():
    twin = load(WORKFLOWS / "api" / "musetalk_batch.json")
    titles = [item["_meta"]["title"] for item in twin.values()]
    assert len(set(titles)) == len(titles)
    assert {"Face video", "Speech", "Models", "Lip sync", "Result"} <= set(titles)
