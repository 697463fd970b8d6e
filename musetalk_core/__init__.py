"""MuseTalk Suite's core: lip-sync without ComfyUI. Importing it loads no weights and no heavy library."""

__version__ = "0.1.0"
