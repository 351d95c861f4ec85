"""Command: runs a table and writes it in every form: `<name>.json`, `.md`, `.csv`, `.tex`, `.png` and `.pdf`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.tables.config import TableSpec
from benchmarks.tables.plots import draw
from benchmarks.tables.rendering import Rendering
from benchmarks.tables.table import Table
from console.tables import new_table, print_table
from ranking.stores.files import write_file
from registry import LOGGERS


def run_table(
    name: str,
    overrides: Sequence[str],
    results: Path,
    runs: Path,
    console: Console,
    *,
    processes: int = 1,
    cores: int = 2,
    render: bool = False,
    wandb: bool = False,
) -> None:
    """Run the cells that are missing, then render.

    Args:
        name: The name of a yaml in configs/tables/, or a path.
        overrides: Options of the table, such as `data=my_store` or `seeds=[0]`.
        results: The folder for the files of the table.
        runs: The folder for its runs.
        console: Where the table is printed.
        processes: How many cells run at once, where memory allows.
        cores: The cores that they share.
        render: Render what is there, and run nothing.
        wandb: Log the table to Weights & Biases as well.

    Raises:
        ConfigError: For a mistake in the yaml, an override or the data of a cell.
    """
    table = Table(TableSpec.load(name, overrides), results, runs)
    findings = table.findings() if render else table.run(console, processes, cores)
    spec = table.spec
    if render and (outdated := len(table.outdated())):
        console.print(f"{outdated} cells were made with other settings or data than the yaml has now")
    rendering = Rendering.of(spec, findings)
    results.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".md", rendering.markdown()), (".csv", rendering.csv()), (".tex", rendering.latex())):
        write_file(results / f"{spec.name}{suffix}", text.encode())
    pictures = draw(spec, rendering.sections, findings, results)
    headers, lines = rendering.lines()
    printed = new_table("", *headers, title=spec.config.question)
    for section, row, cells in lines:
        if section:
            printed.add_row(section, style="bold")
        printed.add_row(row, *cells)
    print_table(console, printed)
    for note in rendering.notes():
        console.print(note, soft_wrap=True, markup=False)
    console.print(
        f"written: {results / spec.name}, as .json, .md, .csv, .tex{''.join(', ' + p.suffix for p in pictures)}"
    )
    if wandb:
        folder = runs / spec.name
        folder.mkdir(parents=True, exist_ok=True)
        headers, rows = rendering.wandb()
        logger = LOGGERS.build("wandb", run_dir=str(folder), path="logger")
        logger.log_table(f"tables/{spec.name}", columns=headers, data=rows)  # type: ignore[attr-defined]
        if png := next((str(each) for each in pictures if each.suffix == ".png"), None):
            logger.log_image(f"tables/{spec.name}/plot", images=[png])  # type: ignore[attr-defined]
        logger.experiment.finish()  # type: ignore[attr-defined]
