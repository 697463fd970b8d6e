"""From a folder of videos to a data folder: clips, faces, sound, lists and a report."""
