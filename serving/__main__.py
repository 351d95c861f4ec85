"""python -m serving: serve trained rankers over HTTP, or write them in forms that other programs run."""

import argparse
import sys
from pathlib import Path

from console.streams import prepare_streams
from registry import ConfigError

_EXPORT_EXAMPLES = """examples:
  python -m serving export runs/list_ranker_jsonl/2026-01-31_12-00-00 ranker.onnx
  python -m serving export runs/list_ranker_jsonl/2026-01-31_12-00-00 ranker/

A name that ends in .onnx gets one ONNX file with the inputs query [batch, feature_dim], candidates [batch, k,
feature_dim] and mask [batch, k], and the output scores [batch, k]; it needs the extra `onnx`. Any other name becomes a
folder with config.json and model.safetensors, which NumPy alone can run: serving.numpy_ranker.NumpyRanker."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 1 if a ranker cannot be read, exported or served."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["export"]:
            return _export(arguments[1:])
        return _serve(arguments)
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _serve(arguments: list[str]) -> int:
    from serving.server.command import EXAMPLES, add_arguments, serve

    parser = argparse.ArgumentParser(
        "python -m serving",
        description="Serve trained rankers over HTTP, or with `export` write one for other programs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return serve(parser.parse_args(arguments))


def _export(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m serving export",
        description="Write a trained ranker as an ONNX file, or as a folder that NumPy alone can run.",
        epilog=_EXPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ranker", type=Path, help="a run's folder, a .ckpt file, or a folder of save_pretrained")
    parser.add_argument("into", type=Path, help="a file *.onnx, or a folder")
    chosen = parser.parse_args(arguments)
    _write(chosen.ranker, chosen.into)
    return 0


def _write(path: Path, into: Path) -> None:
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


if __name__ == "__main__":
    prepare_streams()
    sys.exit(main())
