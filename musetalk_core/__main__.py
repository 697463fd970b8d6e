"""`python -m musetalk_core <command>`: the command line."""

import argparse
import logging
import sys
from collections.abc import Sequence

from .cli import avatar, batch, bench, evaluate, infer, preview, queue, serve, train, weights
from .errors import MuseTalkError
from .host_memory import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status (0 done, 1 a problem told in one sentence, 130 interrupted)."""
    parser = argparse.ArgumentParser(prog="python -m musetalk_core", description="MuseTalk Suite on the command line.")
    parser.add_argument("--verbose", action="store_true", help="show what is loaded and skipped")
    commands = parser.add_subparsers(dest="command", required=True)
    infer.add_parser(commands)
    preview.add_parser(commands)
    avatar.add_parser(commands)
    weights.add_parser(commands)
    train.add_parser(commands)
    evaluate.add_parser(commands)
    batch.add_parser(commands)
    queue.add_parser(commands)
    serve.add_parser(commands)
    bench.add_parser(commands)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(message)s")
    keep_freed_memory()
    try:
        return args.run(args)
    except MuseTalkError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing unfinished is left behind", file=sys.stderr)  # noqa: T201
        return 130


if __name__ == "__main__":
    sys.exit(main())
