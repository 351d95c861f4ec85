"""python -m serving: serve trained rankers over HTTP, write them in forms that other programs run, and publish them."""

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

_PUSH_EXAMPLES = """examples:
  python -m serving push runs/quickstart/2026-01-31_12-00-00 user/name --licence apache-2.0
  python -m serving push runs/quickstart/2026-01-31_12-00-00 user/name --write-only

Writes config.json, model.safetensors, metrics.json and a card into the folder `hub` of the run, then pushes them as
one commit. Reranker, Searcher and load_ranker take user/name like a path. Backbones and encoders are only named."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 1 if a ranker cannot be read, exported, published or served."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        command = {"export": _export, "push": _push}.get(arguments[0] if arguments else "")
        return command(arguments[1:]) if command else _serve(arguments)
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _serve(arguments: list[str]) -> int:
    from serving.server.command import EXAMPLES, add_arguments, serve

    parser = argparse.ArgumentParser(
        "python -m serving",
        description="Serve trained rankers over HTTP; `export` writes one for other programs, `push` publishes it.",
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


def _push(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m serving push",
        description="Publish a trained ranker of any kind on the Hugging Face hub, with a card and its results.",
        epilog=_PUSH_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ranker", type=Path, help="a run's folder, a .ckpt file, or a folder of save_pretrained")
    parser.add_argument("name", help="the repository, user/name; created if it does not exist")
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="for the files (default: hub in the ranker's folder)"
    )
    parser.add_argument("--licence", metavar="ID", help="of the weights, as the hub names it, such as apache-2.0")
    parser.add_argument("--benchmark", metavar="DATA[:TASK]", help="the hub's benchmark that the test queries are of")
    parser.add_argument("--backbone", metavar="NAME", help="where the hub has a backbone that is a folder here")
    parser.add_argument("--encoder", metavar="NAME", help="where the hub has an encoder that is a folder here")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--write-only", action="store_true", help="write the folder, push nothing")
    chosen = parser.parse_args(arguments)
    from serving.hub.pushing import commit, write_repository

    options = {name: getattr(chosen, name) for name in ("licence", "benchmark", "backbone", "encoder")}
    folder = write_repository(chosen.ranker, chosen.name, chosen.into, **options)
    if chosen.write_only:
        print(f"{folder} is ready; push it with: hf upload {chosen.name} {folder} .")
    else:
        print(f"pushed: {commit(folder, chosen.name, private=chosen.private)}")
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
