"""A user's mistakes in the real page: each gives, in the page, the sentence that mends it."""

import pytest
from comfy_client import REPOSITORY
from page_client import NODES_2

WORKFLOWS = REPOSITORY / "workflows"
ALL_IN_ONE, DISCRETE, LONG_VIDEO = "musetalk_all_in_one", "musetalk_discrete", "musetalk_long_video"


@pytest.fixture
def workflow_page(open_page):
    """Opens a page with a shipped workflow."""

    def opened(name, settings=None):
        page = open_page(settings or {})
        page.load(WORKFLOWS / f"{name}.json")
        return page

    return opened


def swap_latents(page):
    assert page.connect("MuseTalkVAEEncodeMasked", "masked", "MuseTalkUNetStep", "reference")
    assert page.connect("MuseTalkVAEEncodeMasked", "reference", "MuseTalkUNetStep", "masked")


def frames_for_crops(page):
    assert page.connect("MuseTalkMatchFrames", "images", "MuseTalkVAEEncodeMasked", "crops")


def swap_frames_and_faces(page):
    assert page.connect("MuseTalkVAEDecode", "faces", "MuseTalkBlendFaceParsing", "images")
    assert page.connect("MuseTalkMatchFrames", "images", "MuseTalkBlendFaceParsing", "faces")


def unmatched_frames(page):
    assert page.connect("GetVideoComponents", "images", "MuseTalkBlendFaceParsing", "images")


def sound_of_silent_video(page):
    assert page.connect("GetVideoComponents", "audio", "MuseTalkLipSync", "audio")


def silent_video_alone(page):
    page.disconnect("MuseTalkLipSyncVideo", "audio")


def weights_not_there(page):
    page.set_widget("LoadMuseTalkModels", "version", "v1.5")


# Mistake, workflow, node that the dialog names, what its sentence says: what is wrong, and what to do.
MISTAKES = [
    (swap_latents, DISCRETE, "MuseTalkUNetStep", ["masked got the reference latents", "connect masked of"]),
    (frames_for_crops, DISCRETE, "MuseTalkVAEEncodeMasked", ["320, 320, 3)", "256 x 256", "face detection"]),
    (swap_frames_and_faces, DISCRETE, "MuseTalkBlendFaceParsing", ["256x256", "320x320", "connect the frames of"]),
    (unmatched_frames, DISCRETE, "MuseTalkBlendFaceParsing", ["12 frames and 25 faces", "one MuseTalkMatchFrames"]),
    (sound_of_silent_video, ALL_IN_ONE, "MuseTalkLipSync", ["There is no audio", "connect Load Audio"]),
    (silent_video_alone, LONG_VIDEO, "MuseTalkLipSyncVideo", ["no sound track", "connect the speech to audio"]),
    (
        weights_not_there,
        ALL_IN_ONE,
        "LoadMuseTalkModels",
        ["musetalkV15/unet.pth", "python -m musetalk_core weights download", "with ComfyUI's Python"],
    ),
]


@pytest.mark.parametrize(("mistake", "workflow", "node", "words"), MISTAKES, ids=[row[0].__name__ for row in MISTAKES])
def test_mistake_is_answered_in_the_page(workflow_page, mistake, workflow, node, words):
    page = workflow_page(workflow)
    mistake(page)
    shown = page.run()
    assert node in shown
    assert [word for word in words if word not in shown] == []


def test_mistake_is_answered_with_nodes_2_too(workflow_page):
    page = workflow_page(ALL_IN_ONE, NODES_2)
    sound_of_silent_video(page)
    shown = page.run()
    assert "MuseTalkLipSync" in shown and "connect Load Audio" in shown


@pytest.mark.parametrize(
    ("kind", "name", "file"), [("LoadVideo", "file", "gone.mp4"), ("LoadAudio", "audio", "gone.wav")]
)
def test_absent_input_file_is_named_in_the_page(workflow_page, kind, name, file):
    page = workflow_page(ALL_IN_ONE)
    page.set_widget(kind, name, file)
    shown = page.run()
    assert kind in shown and "Invalid" in shown and file in shown


def test_page_refuses_sockets_of_another_type(workflow_page):
    page = workflow_page(DISCRETE)
    before = page.prompt()
    assert not page.connect("MuseTalkFaceDetectAndCrop", "crops", "MuseTalkUNetStep", "masked")
    assert not page.connect("LoadAudio", "AUDIO", "MuseTalkUNetStep", "audio")
    assert not page.connect("LoadMuseTalkModels", "audio_encoder", "MuseTalkUNetStep", "model")
    assert page.prompt() == before
