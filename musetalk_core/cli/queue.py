"""`queue`: run a workflow once for each row of a table, on one ComfyUI server or several."""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import MuseTalkError

if TYPE_CHECKING:
    from ..remote.state import Record


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `queue` command."""
    parser = commands.add_parser(
        "queue",
        help="run a workflow for each row of a table on ComfyUI servers",
        description="Runs a workflow once for each row of a table and fetches what it saves. "
        "Interrupted, killed or cut off, the same command goes on where it was.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--server", action="append", required=True, metavar="URL", help="http://127.0.0.1:8188; repeat for more servers"
    )
    parser.add_argument("--workflow", type=Path, required=True, help="file of Workflow > Export (API)")
    parser.add_argument(
        "--jobs", type=Path, required=True, metavar="CSV", help="header: node.input columns, perhaps name; a job a row"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="a value for all jobs; NODE is an id, a title or a class; files that exist here are uploaded",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of results; default: results/<name of the CSV>")
    parser.add_argument("--ahead", type=int, default=2, help="jobs on a server at once; default: %(default)s")
    parser.add_argument(
        "--retries", type=int, default=2, help="repeats after a lost server or a timeout; default: %(default)s"
    )
    parser.add_argument(
        "--timeout", type=float, default=0, metavar="SECONDS", help="longest run of a job; default: 0, any"
    )
    parser.add_argument(
        "--patience", type=float, default=300, metavar="SECONDS", help="wait for a silent server; default: %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    """Run the jobs; 0 when all are done, 1 when some failed or are not finished, 130 when left at once."""
    _check(args)
    if find_spec("..remote", __package__) is None:
        raise MuseTalkError(
            "This copy of the pack is the registry's, which leaves the queue out; run it from a git clone of the "
            "repository that the registry's page links to, on any machine that reaches the servers."
        )
    for package in ("aiohttp", "tqdm"):
        if find_spec(package) is None:
            raise MuseTalkError(f"The queue needs {package}, which is not installed; run `pip install {package}`.")
    from ..remote.batch import Batch, run_batch
    from ..remote.queue import Limits

    servers = [url.rstrip("/") for url in args.server]
    folder = args.out or Path("results") / args.jobs.stem
    limits = Limits(args.ahead, args.retries, args.timeout, args.patience)
    try:
        records = asyncio.run(run_batch(Batch(servers, args.workflow, args.jobs, args.set, folder, limits)))
    except KeyboardInterrupt:
        print("left at once; the same command goes on from here", file=sys.stderr)
        return 130
    _tell(records, folder)
    return 0 if all(record.state.value == "done" for record in records) else 1


def _check(args: argparse.Namespace) -> None:
    for url in args.server:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MuseTalkError(f"--server {url} is no address; write it as http://127.0.0.1:8188.")
    if args.ahead < 1 or args.retries < 0 or args.timeout < 0 or args.patience < 0:
        raise MuseTalkError("--ahead is at least 1; --retries, --timeout and --patience are at least 0.")


def _tell(records: Sequence["Record"], folder: Path) -> None:
    """Print the result folder, a table of the servers, what failed and what is left."""
    counts = Counter(record.state.value for record in records)
    print(f"{folder}: {counts['done']} of {len(records)} jobs done, {counts['failed']} failed; see summary.csv there")
    servers = sorted({record.server for record in records if record.ended})
    width = max(map(len, [*servers, "server"]))
    print(f"{'server':{width}}  done  failed  seconds a job")
    for server in servers:
        mine = [record for record in records if record.ended and record.server == server]
        seconds = [record.seconds for record in mine if record.state.value == "done"]
        mean = f"{sum(seconds) / len(seconds):13.1f}" if seconds else f"{'-':>13}"
        print(f"{server:{width}}  {len(seconds):4}  {len(mine) - len(seconds):6}  {mean}")
    for record in records:
        if record.state.value == "failed":
            print(f"failed: {record.job.name}: {record.error}")
    there = sum(record.on_server for record in records)
    waiting = counts["waiting"]
    if there or waiting:
        print(
            f"Not finished: {there} on their servers, which go on, and {waiting} not queued yet; "
            "run the same command again to go on."
        )
