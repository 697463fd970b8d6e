"""Avatars: a source whose faces are found, encoded and parsed once, kept on disk, and driven by any sound."""
