"""Rendering: a table as Markdown, CSV, LaTeX and rows for W&B; everything in it comes from the results."""

import csv
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.tables.config import Costs, Section, TableSpec
from benchmarks.tables.statistics import LEVEL, Shown, on_other_candidates, shown_section
from benchmarks.tables.table import Key
from console.decimals import decimal

Rows = Mapping[str, Mapping[str, Shown]]

_HEADERS: Mapping[Costs, str] = {
    "parameters": "trained (M)",
    "loaded": "loaded (M)",
    "fit": "training (s)",
    "score": "scoring (s)",
    "memory": "memory (GB)",
}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "–": "--",
    "|": r"\textbar{}",
    # After the end of a line, LaTeX would read a bracket as an option of it.
    "[": "{[}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
_NONE = "–"
_MOST_COLUMNS = 10
_PARTS = ("section", "row", "column", "value", "half_interval", "at_least", "mark", "best", "paper")


@dataclass(frozen=True)
class Rendering:
    """A table that is ready to be written.

    Args:
        spec: What its yaml says.
        sections: Its parts, each with the numbers of its rows.
        remarks: What a reader has to know of the runs: which are missing, and which cannot be compared.
    """

    spec: TableSpec
    sections: Sequence[tuple[Section, Rows]]
    remarks: Sequence[str] = ()

    @classmethod
    def of(cls, spec: TableSpec, findings: Mapping[Key, Mapping[str, Any]]) -> "Rendering":
        """The rendering of what a table's cells found."""
        sections = [(section, shown_section(spec, section, findings)) for section in spec.config.sections]
        cells = [
            (section.name, row.name, column.name, seed)
            for section, row, column in spec.places() for seed in spec.config.seeds
        ]  # fmt: skip
        remarks = []
        if missing := len(set(cells) - findings.keys()):
            remarks.append(f"Not complete: {missing} of {len(cells)} runs are missing; means are over the others.")
        remarks += [
            f"Judged on other candidates than the first row{f' of {section.name}' if section.name else ''} "
            f"in {column}: {', '.join(rows)}."
            for section in spec.config.sections
            for column, rows in on_other_candidates(spec, section, findings).items()
        ]
        return cls(spec, sections, remarks)

    @property
    def headers(self) -> list[str]:
        """The columns, then the costs."""
        config = self.spec.config
        return [*(column.name for column in config.columns), *(_HEADERS[cost] for cost in config.costs)]

    def markdown(self) -> str:
        """The caption, the grid and the notes in Markdown."""
        return "\n".join([self.spec.config.question, "", self.grid(), "", *self.notes(), ""])

    def grid(self) -> str:
        """The lines of the table in Markdown; the paper's number stands in brackets, the best of a column is bold."""
        headers, rows = self.lines(self._markdown)
        lines = ["| | " + " | ".join(map(_plain, headers)) + " |", "|---" * (len(headers) + 1) + "|"]
        for title, name, shown in rows:
            if title:
                lines.append(f"| *{_plain(title)}* |" + " |" * len(headers))
            lines.append("| " + " | ".join([_plain(name), *shown]) + " |")
        return "\n".join(lines)

    def lines(self, show: Callable[[Shown], str] | None = None) -> tuple[list[str], list[tuple[str, str, list[str]]]]:
        """The headers, and of each line the title of a section that begins there, the name and the cells.

        A table that is too wide for a page, and wider than it is high, has its columns as lines.

        Args:
            show: Turns a cell into text; plain text by default.
        """
        headers, show = self.headers, show or self._text
        rows = [(title, name, [show(each) for each in shown]) for title, name, shown in self._rows()]
        if not self._is_turned:
            return headers, rows
        title, names = rows[0][0], [name for _, name, _ in rows]
        columns = zip(*(cells for _, _, cells in rows), strict=True)
        turned = [("", header, list(cells)) for header, cells in zip(headers, columns, strict=True)]
        return names, [(title, *turned[0][1:]), *turned[1:]]

    def csv(self) -> str:
        """One line per cell, with all numbers in full."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_PARTS)
        writer.writerows(parts.values() for parts, _ in self._cells())
        return text.getvalue()

    def latex(self) -> str:
        """The table in LaTeX, no wider than a line; needs \\usepackage{booktabs,graphicx}."""
        caption = f"\\caption{{{latex(self.spec.config.question)}}}\\label{{tab:{self.spec.name}}}"
        headers, rows = self.lines(self._latex)
        lines = [
            r"\begin{table}",
            r"\centering",
            caption,
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        ]
        lines += [f"\\begin{{tabular}}{{l{'r' * len(headers)}}}", r"\toprule"]
        lines += [" & ".join(["", *map(latex, headers)]) + r" \\", r"\midrule"]
        for place, (title, name, shown) in enumerate(rows):
            if title:
                lines += [r"\midrule"] if place else []
                lines.append(f"\\multicolumn{{{len(headers) + 1}}}{{l}}{{\\textit{{{latex(title)}}}}} \\\\")
            lines.append(" & ".join([latex(name), *shown]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}}"]
        lines += [r"\par\smallskip\footnotesize " + latex(note) + r"\par" for note in self.notes()]
        return "\n".join([*lines, r"\end{table}", ""])

    def wandb(self) -> tuple[list[str], list[list[Any]]]:
        """The headers and rows of a W&B table: one row per cell, as in the CSV, with the cell as the table shows it.

        A column of W&B has one type, so texts instead of numbers are in the last column alone.
        """
        rows = []
        for parts, shown in self._cells():
            numbers = {name: None if isinstance(parts[name], str) else parts[name] for name in ("value", "paper")}
            rows.append([*{**parts, **numbers}.values(), self._text(shown)])
        return [*_PARTS, "shown"], rows

    def notes(self) -> list[str]:
        """What the numbers and signs mean."""
        config, cells = (
            self.spec.config,
            [each for _, rows in self.sections for row in rows.values() for each in row.values()],
        )
        notes = []
        if any(each.half is not None for each in cells):
            over = f"{len(config.seeds)} seeds" if len(config.seeds) > 1 else "queries"
            notes.append(f"±: half of the 95 % interval over {over}.")
        if any(each.mark for each in cells):
            rivals = "the best rival" if any(row.ours for row in config.rows) else "the best other row"
            over = ("the line" if self._is_turned else "the column") + (
                " of each part" if len(self.sections) > 1 else ""
            )
            notes.append(
                f"+ and -: better and worse than {rivals} on the same queries (paired randomization test, p at most "
                f"{LEVEL:g} after Holm's correction over {over})."
            )
        if any(each.is_least for each in cells):
            notes.append(">: the training was stopped by trainer.max_time.")
        if {"parameters", "loaded"} & set(config.costs):
            others = [row.name for row in config.rows if row.million == "10^6"]
            notes.append("M: 2^20" + (f", for {', '.join(others)} 10^6." if others else "."))
        notes += [
            f"Range of {f'{section.name} {name}'.strip()} over the columns: {self._range(cells.values())}."
            for section, rows in self.sections if config.plot == "ranges"
            for name, cells in rows.items() if any(each.value is not None for each in cells.values())
        ]  # fmt: skip
        if any(each.paper is not None for each in cells):
            notes.append(f"In brackets: {config.source or 'the paper'}.")
        return [*notes, *self.remarks]

    @property
    def _is_turned(self) -> bool:
        return len(self.sections) == 1 and len(self.headers) > max(_MOST_COLUMNS, len(self.spec.config.rows))

    def _range(self, cells: Collection[Shown]) -> str:
        ranked = [each for each in cells if not each.is_cost]
        ours = [each.value for each in ranked if each.value is not None]
        papers = [each.paper for each in ranked if isinstance(each.paper, float)]
        ranges = [self._decimal(ranked[0], max(numbers) - min(numbers)) for numbers in (ours, papers) if numbers]
        return ranges[0] + (f" ({ranges[1]})" if papers else "")

    def _rows(self) -> Iterator[tuple[str, str, list[Shown]]]:
        """The title of the section at its first row, the row's name and its cells."""
        for section, rows in self.sections:
            for place, (name, cells) in enumerate(rows.items()):
                yield section.name if place == 0 else "", name, list(cells.values())

    def _cells(self) -> Iterator[tuple[dict[str, Any], Shown]]:
        """The parts of each cell by name, with all numbers in full, and what the table shows there."""
        for section, rows in self.sections:
            for name, cells in rows.items():
                for column, shown in cells.items():
                    value = shown.text if shown.value is None else shown.value
                    found = [value, shown.half, int(shown.is_least), shown.mark, int(shown.best), shown.paper]
                    yield dict(zip(_PARTS, [section.name, name, column, *found], strict=True)), shown

    def _text(self, shown: Shown) -> str:
        number = self._number(shown) + ("" if shown.half is None else f" ± {self._decimal(shown, shown.half)}")
        return number + shown.mark + self._paper(shown)

    def _markdown(self, shown: Shown) -> str:
        number = f"**{self._number(shown)}**" if shown.best else self._number(shown)
        half = "" if shown.half is None else f" ± {self._decimal(shown, shown.half)}"
        return _plain(f"{number}{half}{shown.mark}{self._paper(shown)}")

    def _latex(self, shown: Shown) -> str:
        number = latex(self._number(shown))
        number = f"\\textbf{{{number}}}" if shown.best else number
        mark = {"": "", "+": r"$^{+}$", "-": r"$^{-}$"}[shown.mark]
        half = "" if shown.half is None else rf" {{\scriptsize$\pm$ {self._decimal(shown, shown.half)}}}"
        return f"{number}{half}{mark}{latex(self._paper(shown))}"

    def _number(self, shown: Shown) -> str:
        if shown.value is None:
            return shown.text or _NONE
        return ("> " if shown.is_least else "") + self._decimal(shown, shown.value)

    def _paper(self, shown: Shown) -> str:
        if shown.paper is None:
            return ""
        return f" ({shown.paper if isinstance(shown.paper, str) else self._decimal(shown, shown.paper)})"

    def _decimal(self, shown: Shown, value: float) -> str:
        if shown.is_cost:
            return decimal(value, 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0)
        return decimal(value, 1 if self.spec.config.percent else 3)


def latex(text: str) -> str:
    """A text with LaTeX's special characters escaped.

    >>> latex("a_b & 5 %")
    'a\\\\_b \\\\& 5 \\\\%'
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _plain(text: str) -> str:
    return text.replace("|", "\\|")
