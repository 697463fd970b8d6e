#!/usr/bin/env python3
"""Copy the demo's video to its place with a "synthetic demo" tag, and print its facts as one JSON line.

    HOST/venv/bin/python scripts/demo_result.py SOURCE.mp4 TARGET.mp4

Streams are copied, not encoded again. Fails when the video has no picture or no sound.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import av

TAG = "synthetic demo, made with MuseTalk Suite"


def finish(source: Path, target: Path) -> dict[str, object]:
    """Copy all streams of source to target with the tag as its comment; target appears at once, and only if good.

    Returns the facts of the copy. Raises ValueError without picture or sound.
    """
    partial = target.with_name(".partial-" + target.name)
    try:
        with (
            av.open(source) as given,
            av.open(partial, "w", options={"movflags": "use_metadata_tags"}) as made,
        ):
            made.metadata.update({**given.metadata, "comment": TAG})
            streams = {s.index: made.add_stream_from_template(s) for s in given.streams}
            for packet in given.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    made.mux(packet)
        found = facts(partial)
        partial.replace(target)
        return found
    finally:
        partial.unlink(missing_ok=True)


def facts(path: Path) -> dict[str, object]:
    """What the file really holds, counted by decoding it."""
    with av.open(path) as container:
        if not container.streams.video or not container.streams.audio:
            raise ValueError("the video has no picture or no sound")
        video = container.streams.video[0]
        frames = sum(1 for _ in container.decode(video))
        fps, size = video.average_rate, f"{video.width}x{video.height}"
    with av.open(path) as container:
        audio = container.streams.audio[0]
        rate = audio.rate
        samples = sum(frame.samples for frame in container.decode(audio))
        sound = float(audio.duration * audio.time_base) if audio.duration else samples / rate
        comment = container.metadata.get("comment")
    return {
        "frames": frames,
        "size": size,
        "fps": str(fps),
        "picture_seconds": round(float(frames / fps), 3),
        "sound_seconds": round(sound, 3),
        "sample_rate": rate,
        "comment": comment,
    }


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        print(json.dumps(finish(source, target)))
    except (ValueError, OSError, av.FFmpegError) as error:
        print(f"demo_result: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
