"""MuseTalk Suite for ComfyUI: lip-sync any face to any audio."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import MuseTalkSuite

    return MuseTalkSuite()
