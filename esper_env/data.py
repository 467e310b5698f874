"""Fetch the public data sets, or say where they are.

python -m esper_env.data status
python -m esper_env.data fetch cifar10|fashion_mnist [--root DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from esper_env.tolaria.datasets import (
    DEFAULT_ROOT,
    find_dataset,
    search_folders,
)
from esper_env.tolaria.readers import REAL_DATASETS, DataFormatError


def fetch(name: str, root: str = DEFAULT_ROOT) -> Path:
    """Download a data set through torchvision and return the folder of its files.

    Args:
        name: "cifar10" or "fashion_mnist".
        root: the folder to put it in, created where it does not exist.

    Raises:
        OSError: the download failed; the message names the data set and what to do.
    """
    from torchvision import datasets  # noqa: PLC0415 - slow to import, and needed here only

    classes = {"cifar10": datasets.CIFAR10, "fashion_mnist": datasets.FashionMNIST}
    place = Path(root).expanduser().resolve()
    try:
        place.mkdir(parents=True, exist_ok=True)
        classes[name](str(place), download=True)
    except (OSError, RuntimeError) as error:  # torchvision raises RuntimeError when every mirror fails
        raise OSError(
            f"{REAL_DATASETS[name].title} could not be downloaded to {place}: {error}. Check the network "
            "connection and that the folder can be written, then run the same command again; or copy the "
            f"files from another machine to {place / REAL_DATASETS[name].subfolder}"
        ) from error
    return place / REAL_DATASETS[name].subfolder


def status() -> str:
    """One paragraph a data set: the folder it is found in, or how to get it and where it is looked for."""
    lines = []
    for name, spec in REAL_DATASETS.items():
        try:
            folder = find_dataset(name, None)
        except DataFormatError as error:
            lines.append(f"{name}: incomplete\n  {error}")
            continue
        if folder is not None:
            lines.append(f"{name}: found in {folder}")
        else:
            searched = "\n    ".join(str(place) for place in search_folders(name, None))
            lines.append(f"{name}: not on disk\n  to get it, {spec.how_to_get}\n  searched:\n    {searched}")
    lines.append("synthetic: embedded, always available")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m esper_env.data", description="Fetch data sets, or list them.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="list each data set and where it was found")
    fetching = commands.add_parser("fetch", help="download a data set through torchvision")
    fetching.add_argument("dataset", choices=tuple(REAL_DATASETS))
    fetching.add_argument("--root", default=DEFAULT_ROOT, help="folder to put it in (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "status":
            print(status())
        else:
            print(f"{options.dataset}: in {fetch(options.dataset, options.root)}")
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
