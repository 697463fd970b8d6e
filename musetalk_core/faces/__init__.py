"""Faces: detection, landmarks, crop geometry and the track that ties them to frames."""
