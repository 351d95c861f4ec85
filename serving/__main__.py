"""python -m serving: write trained rankers in forms that other programs run."""

import argparse
import sys
from pathlib import Path

from console.streams import prepare_streams
from registry import ConfigError

_EXPORT = """examples:
  python -m serving export runs/list_ranker_jsonl/2026-01-31_12-00-00 ranker.onnx
  python -m serving export runs/list_ranker_jsonl/2026-01-31_12-00-00 ranker/

A name that ends in .onnx gets one ONNX file with the inputs query [batch, feature_dim], candidates [batch, k,
feature_dim] and mask [batch, k], and the output scores [batch, k]; it needs the extra `onnx`. Any other name becomes a
folder with config.json and model.safetensors, which NumPy alone can run: serving.numpy_ranker.NumpyRanker."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 1 if the ranker cannot be read or exported."""
    parser = argparse.ArgumentParser("python -m serving", description="What can be done with trained rankers.")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser(
        "export",
        help="write a ListRanker or PointRanker as ONNX, or as a folder for NumPy",
        description="Write a trained ranker as an ONNX file, or as a folder that NumPy alone can run.",
        epilog=_EXPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("ranker", type=Path, help="a run's folder, a .ckpt file, or a folder of save_pretrained")
    export.add_argument("into", type=Path, help="a file *.onnx, or a folder")
    chosen = parser.parse_args(arguments)
    try:
        return _export(chosen.ranker, chosen.into)
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _export(path: Path, into: Path) -> int:
    from rankers.checkpoint import load_ranker, save_pretrained  # imported here, so --help does not wait for torch
    from serving.exporting import export_onnx
    from serving.numpy_ranker import check_options

    ranker = load_ranker(path)
    if into.suffix == ".onnx":
        difference = export_onnx(ranker, into)
        print(f"{into} is ready; its scores differ from the ranker's by at most {difference:.0e} of the largest.")
    else:
        check_options(ranker.description()["ranker"])
        save_pretrained(ranker, into)
        print(f"{into} is ready: serving.numpy_ranker.NumpyRanker({str(into)!r}) scores with it.")
    return 0


if __name__ == "__main__":
    prepare_streams()
    sys.exit(main())
