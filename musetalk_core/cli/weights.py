"""`weights`: list, check, download and convert weight files."""

import argparse
import sys
from pathlib import Path

from ..errors import MissingWeightsError, MuseTalkError
from ..weights.catalogue import GROUPS, WEIGHTS, WeightEntry, select
from ..weights.folders import ModelFolders

_NAMES = f"ids or groups: {', '.join([*GROUPS, *(entry.id for entry in WEIGHTS)])}"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `weights` command with its four actions."""
    parser = commands.add_parser("weights", help="list, check, download and convert weight files")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True)
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--models", type=Path, help="folder of the weights; default: ./models or ComfyUI's")
    actions.add_parser("list", parents=[folder], help="what there is: size, licence, source, where it is looked for")
    check = actions.add_parser("check", parents=[folder], help="say for each file: present, missing or wrong")
    check.add_argument("names", nargs="*", default=["v1.5"], metavar="NAME", help=f"{_NAMES}; default: v1.5")
    check.add_argument("--hash", action="store_true", help="also compare SHA-256 with the published file")
    get = actions.add_parser("download", parents=[folder], help="download files; goes on after a break")
    get.add_argument("names", nargs="+", metavar="NAME", help=_NAMES)
    get.add_argument("--yes", action="store_true", help="accept the licences without being asked")
    convert = actions.add_parser("convert", help="write a weight file in another format or precision")
    convert.add_argument("source", type=Path, help="any weight file")
    convert.add_argument("target", type=Path, help="name.safetensors, name.pth, name.pt or name.bin")
    convert.add_argument("--precision", choices=("fp32", "fp16", "bf16"), help="default: as in the source")
    convert.add_argument("--overwrite", action="store_true", help="replace an existing target")


def run(args: argparse.Namespace) -> int:
    """Run the action of the arguments; returns 0 when all is well, 1 when `check` finds something missing or wrong."""
    if args.action == "convert":
        return _convert(args)
    folders = ModelFolders.default(args.models)
    if args.action == "list":
        return _list(folders)
    entries = select(args.names)
    return _check(entries, folders, args.hash) if args.action == "check" else _download(entries, folders, args.yes)


def _list(folders: ModelFolders) -> int:
    for entry in WEIGHTS:
        groups = [name for name, members in GROUPS.items() if entry in members and name != "all"]
        print(f"{entry.id}: {entry.title}, {_bytes(entry.size)}" + (f" (in {', '.join(groups)})" if groups else ""))
        print(f"  licence: {entry.licence}; {entry.licence_url}")
        for file in entry.files:
            print(f"  {file.path}  {file.size} bytes  sha256 {file.sha256}")
            print(f"    {file.url}")
        if entry.also_accepted:
            print("  also accepted: " + ", ".join(f"{key}:{path}" for key, path in entry.also_accepted))
    for key, roots in folders.folders.items():
        print(f"folders of {key}: {', '.join(str(root) for root in roots)}")
    print(f"downloads go to {folders.download_folder}")
    return 0


def _check(entries: list[WeightEntry], folders: ModelFolders, compare_hash: bool) -> int:
    faults = 0
    for entry in entries:
        try:
            path = folders.find(entry.id)
            print(f"{_verdict(entry, path, compare_hash)}: {entry.id} at {path}")
        except MissingWeightsError as error:
            faults += 1
            print(f"missing: {entry.id}: {error}")
        except MuseTalkError as error:
            faults += 1
            print(f"wrong: {entry.id}: {error}")
    return 1 if faults else 0


def _verdict(entry: WeightEntry, path: Path, compare_hash: bool) -> str:
    """What is known of a file's content; raises MuseTalkError for one that cannot be the entry's network."""
    from ..weights.download import sha256_of
    from ..weights.models import check_role

    check_role(entry.role, path)
    published = entry.files[0]
    if path.name != Path(published.path).name:
        return "present (another format than the published file)"
    if path.stat().st_size != published.size:
        return f"present (not the published file: {path.stat().st_size:,} of {published.size:,} bytes)"
    if not compare_hash:
        return "present"
    same = sha256_of(path) == published.sha256
    return "present (SHA-256 as published)" if same else "present (not the published file: SHA-256 differs)"


def _download(entries: list[WeightEntry], folders: ModelFolders, accept: bool) -> int:
    from ..weights.download import download

    target = folders.download_folder
    print(f"To {target}, {_bytes(sum(entry.size for entry in entries))} in all:")
    for entry in entries:
        print(f"  {entry.title}, {_bytes(entry.size)}; licence: {entry.licence}; {entry.licence_url}")
    if not accept and not _ask("Accept these licences and download? [y/N] "):
        print("Nothing was downloaded.")
        return 1
    for entry in entries:
        for path in download(entry, target, _Meter().show, accept_licence=True):
            print(f"ready: {path}")
    return 0


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        raise MuseTalkError("Nobody can be asked here; add --yes to accept the licences shown above.")
    return input(question).strip().lower() in ("y", "yes")


class _Meter:
    """Shows a transfer on stderr, one step per percent."""

    def __init__(self) -> None:
        self.shown = ("", -1)

    def show(self, name: str, done: int, total: int) -> None:
        step = (name, 100 * done // total)
        if step == self.shown:
            return
        self.shown = step
        end = "\r" if sys.stderr.isatty() and done < total else "\n"
        if end == "\r" or step[1] % 10 == 0:
            print(f"{name}: {step[1]} % of {_bytes(total)}", end=end, file=sys.stderr, flush=True)


def _convert(args: argparse.Namespace) -> int:
    from ..weights.convert import convert

    state = convert(args.source, args.target, args.precision, args.overwrite)
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})
    print(f"{args.target}: {len(state)} tensors, {', '.join(dtypes)}, {_bytes(args.target.stat().st_size)}")
    return 0


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
