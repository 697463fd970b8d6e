"""The embedded demo generator: MuseTalk's interface on networks small enough for a CPU and for the repository."""
