"""AlpacaEval's annotations become graded groups; the files are of the published form, made here."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from features.reading import downloads
from features.sources.tasks import alpaca_eval_graded
from features.sources.tasks.alpaca_eval_graded import AlpacaEvalGraded
from features.texts.groups import TextGroup, checked
from features.texts.prompts import instruction
from registry import SOURCES, ConfigError

REFERENCE, JUDGE = "gpt4_1106_preview", "weighted_alpaca_eval_gpt4_turbo"


def row(number: int, model: str, preference: Any, **changes: Any) -> dict[str, Any]:
    """A row as `annotations.json` has it."""
    return {
        "dataset": "koala",
        "instruction": f"Tell {number}.",
        "output_1": f"reference {number}",
        "generator_1": REFERENCE,
        "output_2": f"{model} on {number}",
        "generator_2": model,
        "annotator": JUDGE,
        "preference": preference,
        "raw_completion": {"finish_reason": "length", "text": "M", "total_tokens": 846.0},
        **changes,
    }


def publish(results: Path, model: str, rows: list[dict[str, Any]], judge: str = JUDGE) -> None:
    file = results / model / judge / "annotations.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(rows, indent=2).replace("/", "\\/"))


def read(path: Path, models: list[str], **options: Any) -> list[TextGroup]:
    source = SOURCES.build({"name": "alpaca_eval_graded", "path": str(path), "models": models, **options})
    assert isinstance(source, AlpacaEvalGraded)
    found = list(checked(source.groups()))
    assert found == list(source.groups())
    return found


def labels(group: TextGroup) -> dict[str, float | None]:
    return {candidate.id: candidate.label for candidate in group.candidates}


def test_an_instruction_has_the_outputs_of_all_models_with_their_preferences(tmp_path: Path) -> None:
    publish(tmp_path / "results", "a", [row(0, "a", 1.25), row(1, "a", 2.0), row(2, "a", 1.0)])
    publish(tmp_path / "results", "b", [row(1, "b", 1.000039552), row(0, "b", 1.75)])
    groups = read(tmp_path, ["a", "b"])
    assert [group.query for group in groups] == ["Tell 0.", "Tell 1.", "Tell 2."]
    assert labels(groups[0]) == {"a": 0.25, "b": 0.75} and labels(groups[2]) == {"a": 0}
    assert labels(groups[1]) == {"a": 1, "b": pytest.approx(0.000039552)}
    assert {each.id: each.text for each in groups[0].candidates} == {"a": "a on 0", "b": "b on 0"}
    assert groups[0].origin == "a/annotations.json, item 1" and groups[0].split is None
    assert read(tmp_path / "results", ["a", "b"]) == groups
    other = read(tmp_path, ["b", "a"])
    assert {group.query_id for group in other} == {group.query_id for group in groups}
    by_text = {group.query: group.candidates for group in other}
    assert all(by_text[group.query] == group.candidates for group in groups)


def test_a_draw_a_failed_judgement_and_an_empty_output_are_taken_as_the_publisher_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [0, None, math.nan, 1.5, 1.75]
    rows = [row(number, "a", value) for number, value in enumerate(values)]
    publish(tmp_path, "a", [*rows, row(5, "a", 1.0, output_2=" ")])
    publish(tmp_path, "b", [row(5, "b", 1.0)])
    found = [labels(group) for group in read(tmp_path, ["a", "b"])]
    assert found == [{"a": 0.5}, {"a": None}, {"a": None}, {"a": 0.5}, {"a": 0.75}, {"b": 0}]
    assert capsys.readouterr().err == "Left out one output whose text is empty.\n"


def test_the_reference_may_come_first_or_second(tmp_path: Path) -> None:
    swapped = {"generator_1": "a", "output_1": "mine", "generator_2": REFERENCE, "output_2": "theirs"}
    publish(tmp_path, "a", [row(0, "a", 1.25, **swapped), row(1, "a", 1.25)])
    first, second = read(tmp_path, ["a"])
    assert (first.candidates[0].text, first.candidates[0].label) == ("mine", 0.75)
    assert (second.candidates[0].text, second.candidates[0].label) == ("a on 1", 0.25)
    publish(tmp_path, REFERENCE, [row(0, REFERENCE, 1.5)])
    assert labels(read(tmp_path, [REFERENCE])[0]) == {REFERENCE: 0.5}


def test_a_language_model_can_read_the_outputs_as_recorded_responses(tmp_path: Path) -> None:
    publish(tmp_path, "a", [row(0, "a", 1.25), row(1, "a", None)])
    publish(tmp_path, "b", [row(1, "b", 1.5)])
    source = AlpacaEvalGraded(str(tmp_path), ["a", "b"])
    problems, groups = list(source.problems()), list(source.groups())
    assert [problem.query_id for problem in problems] == [group.query_id for group in groups]
    for problem, group in zip(problems, groups, strict=True):
        assert [(each.id, each.text, each.label) for each in problem.responses] == [
            (each.id, each.text, each.label) for each in group.candidates
        ]
        assert problem.messages == instruction(group.query)


WRONG = {
    "no reference": (
        row(0, "a", 1.0, generator_1="c"),
        "item 1: generator_1: found 'c' and 'a', expected 'gpt4_1106_preview' to be one of them",
    ),
    "a preference of another scale": (row(0, "a", 2.5), "preference: found 2.5, expected a number from 1 to 2"),
    "a preference in words": (row(0, "a", "a"), 'preference: found "a", expected a number'),
    "no output": ({**row(0, "a", 1.0), "output_2": None}, "output_2: found null, expected text"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_row_is_named(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    publish(tmp_path, "a", [wrong])
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, ["a"])
    assert message in str(raised.value)


def test_an_instruction_that_a_model_answers_twice_is_an_error(tmp_path: Path) -> None:
    publish(tmp_path, "a", [row(0, "a", 1.0), row(1, "a", 1.0), row(0, "a", 1.5)])
    with pytest.raises(
        ConfigError, match=r"item 3: instruction: was already in annotations.json, item 1; expected each"
    ):
        read(tmp_path, ["a"])


def test_a_model_or_judge_without_annotations_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    publish(tmp_path, "alpaca-7b", [row(0, "alpaca-7b", 1.0)])
    publish(tmp_path, "gpt-4", [row(0, "gpt-4", 1.0)], judge="another")
    with pytest.raises(ConfigError, match="has no annotations of 'alpaca-7' by weighted_alpaca") as raised:
        read(tmp_path, ["alpaca-7b", "alpaca-7"])
    assert raised.value.path == "features.source.models" and "Did you mean: alpaca-7b" in str(raised.value)
    assert "gpt-4" not in str(raised.value)
    assert len(read(tmp_path, ["gpt-4"], annotator="another")) == 1
    with pytest.raises(ConfigError, match=r"features.source.models: 'a' occurs twice"):
        read(tmp_path, ["a", "a"])
    file = tmp_path / "alpaca-7b" / JUDGE / "annotations.json"
    with pytest.raises(ConfigError, match="is a file, expected a folder"):
        read(file, ["alpaca-7b"])
    with pytest.raises(ConfigError, match="no such file or folder"):
        read(tmp_path / "nowhere", ["alpaca-7b"])


def test_without_path_the_files_of_fixed_commits_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "FOLDER", tmp_path)
    source = AlpacaEvalGraded()
    assert len(source.models) == 16 and len(source.fingerprint()["files"]) == 16
    for model, download in alpaca_eval_graded.DOWNLOADS.items():
        commit, _, place = download.url.removeprefix(
            "https://raw.githubusercontent.com/tatsu-lab/alpaca_eval/"
        ).partition("/")
        assert len(commit) == 40 and place == f"results/{model}/{JUDGE}/annotations.json"
        publish(tmp_path / "alpaca_eval", model, [row(0, model, 1.5)])
    [group] = source.groups()
    assert labels(group) == dict.fromkeys(sorted(source.models), 0.5) and len(group.candidates) == 16
    other = AlpacaEvalGraded(models=["gpt-4o"]).data.downloads["gpt-4o"]
    assert "/alpaca_eval/main/results/gpt-4o/" in other.url
