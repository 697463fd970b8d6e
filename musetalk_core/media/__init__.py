"""Pictures and sound from files and into files, streamed."""
