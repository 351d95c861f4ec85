"""A yaml with its bases and overrides becomes one checked config, or one error that names the place."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from registry import ConfigError, FeaturesConfig, RunConfig, config, load_config
from registry.config import find_config, merge, to_yaml

PLAIN = "ranker: list_ranker\ndatamodule: {name: grouped_features, path: store}\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str = PLAIN, name: str = "run.yaml") -> Path:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def message(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(*arguments, **options)
    return str(error.value)


def test_a_config_is_every_option_spelled_out(write: Callable[..., Path]) -> None:
    loaded = load_config(write(PLAIN + "seed: 3\nlogger: tensorboard\n"))
    assert isinstance(loaded, RunConfig)
    assert loaded.seed == 3 and loaded.runs == "runs"
    assert loaded.ranker["temperature"] == 1.0 and loaded.ranker["block"]["name"] == "transformer"
    assert loaded.datamodule["path"] == "store" and loaded.datamodule["batch_size"] == 256
    assert loaded.logger == [{"name": "tensorboard"}]


def test_a_config_written_out_loads_as_itself(write: Callable[..., Path]) -> None:
    loaded = load_config(write(), ["ranker.loss=listnet", "trainer.max_epochs=3", "callbacks=[early_stopping]"])
    assert load_config(write(to_yaml(asdict(loaded)), "again.yaml")) == loaded


def test_a_config_of_another_shape_is_checked_just_so() -> None:
    with pytest.raises(ConfigError, match="ranker: no such option of FeaturesConfig"):
        load_config(None, ["ranker=list_ranker"], into=FeaturesConfig)


def test_a_config_is_a_path_or_a_name_in_configs(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    for name in ("quickstart.yaml", "base/data.yaml", "features/mbpp.yaml"):
        write(name=name)
    assert find_config("quickstart") == find_config("quickstart.yaml") == find_config(tmp_path / "quickstart.yaml")
    assert find_config("features/mbpp") == tmp_path / "features/mbpp.yaml"
    with pytest.raises(ConfigError) as error:
        find_config("quikstart.yaml")
    assert str(error.value) == (
        "quikstart.yaml: no such file, and no such name in configs/.\n"
        "  Did you mean: quickstart.yaml\n"
        "  Known:        quickstart.yaml"
    )
    with pytest.raises(ConfigError, match=r"Did you mean: features/mbpp.yaml\n  Known:        features/mbpp.yaml$"):
        find_config("features/mpbp")
    for elsewhere in (tmp_path.parent / "other" / "run.yaml", "../run.yaml", "a" * 300 + "/run.yaml"):
        with pytest.raises(ConfigError, match=r"no such name in configs/\.$"):
            find_config(elsewhere)


def test_a_child_wins_over_its_base_and_an_override_over_both(write: Callable[..., Path]) -> None:
    write("ranker: list_ranker\nseed: 1\nsave_every: 7\nruns: base", "grand.yaml")
    write("base: grand.yaml\nseed: 2\nruns: middle\ndatamodule: {name: grouped_features, path: a}", "middle.yaml")
    loaded = load_config(
        write("base: middle.yaml\nruns: child\ndatamodule: {path: b}"), ["runs=mine", "seed=5", "seed=6"]
    )
    assert (loaded.save_every, loaded.seed, loaded.runs) == (7.0, 6, "mine")
    assert loaded.datamodule["path"] == "b"


def test_a_base_is_beside_its_child_or_in_configs(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CONFIGS", tmp_path / "configs")
    write(PLAIN + "seed: 8", "configs/shared.yaml")
    write(PLAIN + "seed: 9", "near.yaml")
    assert load_config(write("base: shared.yaml")).seed == 8
    assert load_config(write("base: near.yaml")).seed == 9
    problem = message(write("base: sharde.yaml"))
    assert problem.startswith("run.yaml: base: no such file: 'sharde.yaml'.\n  Did you mean: shared.yaml\n")


def test_bases_in_a_circle_are_shown(write: Callable[..., Path]) -> None:
    write("base: run.yaml", "other.yaml")
    assert message(write("base: other.yaml")) == (
        "run.yaml: base: goes in a circle: run.yaml -> other.yaml -> run.yaml."
    )


def test_a_mistake_in_a_base_names_the_base(write: Callable[..., Path]) -> None:
    write("runs: a\nseed: [1]]", "broken.yaml")
    assert message(write("base: broken.yaml")).startswith("broken.yaml: line 2, column")
    assert message(write("base: [a.yaml, b.yaml]")) == (
        "run.yaml: base: expected the name of one file, got ['a.yaml', 'b.yaml']."
    )


@pytest.mark.parametrize(("base", "child", "merged"), [
    ({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, {"a": 1, "b": {"c": 2, "d": 3}}),
    ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
    ({"a": {"b": 1}}, {"a": None}, {"a": None}),
    ({"loss": "listnet"}, {"loss": {"label_temperature": 2}}, {"loss": {"name": "listnet", "label_temperature": 2}}),
    ({"loss": "listnet"}, {"loss": {"name": "bce"}}, {"loss": {"name": "bce"}}),
    ({"block": {"name": "transformer", "num_heads": 2}}, {"block": {"name": "mlp"}}, {"block": {"name": "mlp"}}),
    ({"block": {"name": "mlp", "ratio": 2}}, {"block": {"name": "mlp", "dropout": 0.1}},
     {"block": {"name": "mlp", "ratio": 2, "dropout": 0.1}}),
    ({"loss": {"name": "listnet", "label_temperature": 2}}, {"loss": "bce"}, {"loss": "bce"}),
    ({"loss": {"name": "listnet"}}, {"loss": {"label_temperature": 2}},
     {"loss": {"name": "listnet", "label_temperature": 2}}),
])  # fmt: skip
def test_mappings_merge_key_by_key_and_all_else_is_replaced(base: Any, child: Any, merged: Any) -> None:
    before = repr((base, child))
    assert merge(base, child) == merged
    assert repr((base, child)) == before


def test_overrides_hold_any_yaml_value(write: Callable[..., Path]) -> None:
    path = write()
    for override, key, value in [
        ("ranker.optimizer.lr=1e-3", "optimizer", {"name": "adamw", "lr": 0.001}),
        ("ranker.block={name: mlp, ratio: 2}", "block", {"name": "mlp", "ratio": 2}),
        ("ranker.metrics=[mrr, ndcg@5]", "metrics", [{"name": "mrr", "k": None}, {"name": "ndcg", "k": 5}]),
        ("ranker.projection=null", "projection", None),
        ("ranker.learn_temperature=true", "learn_temperature", True),
    ]:
        found = load_config(path, [override]).ranker[key]
        if isinstance(value, dict):
            assert value.items() <= found.items()
        elif isinstance(value, list):
            assert all(one.items() <= other.items() for one, other in zip(value, found, strict=True))
        else:
            assert found == value
    assert load_config(path, ["datamodule.path=a=b"]).datamodule["path"] == "a=b"


def test_an_override_that_is_none_says_what_one_is(write: Callable[..., Path]) -> None:
    for override in ("seed", "=3", ".=3", "ranker..loss=bce", "--seed"):
        expected = f"run.yaml: {override}: expected key=value, such as trainer.max_epochs=3."
        assert message(write(), [override]) == expected
    assert message(write(), ["ranker.loss=[bce"]).startswith("run.yaml: ranker.loss: not a yaml value: '[bce'.")


def test_interpolations_see_overrides(write: Callable[..., Path]) -> None:
    path = write(PLAIN + "seed: 1\nsave_every: ${seed}\nruns: out/${seed}")
    loaded = load_config(path, ["seed=4"])
    assert (loaded.save_every, loaded.runs) == (4.0, "out/4")
    assert message(path, ["save_every=${sead}"]) == "run.yaml: save_every: Interpolation key 'sead' not found"


def test_what_has_to_be_set_says_so(write: Callable[..., Path]) -> None:
    path = write("ranker: list_ranker\ndatamodule: {name: grouped_features, path: '???'}")
    assert message(path) == (
        "run.yaml: datamodule.path: has to be set.\n  What to do:   add datamodule.path=VALUE to the command"
    )
    assert load_config(path, ["datamodule.path=here"]).datamodule["path"] == "here"


@pytest.mark.parametrize(("text", "problem"), [
    ("a: [1, 2\nb: 3\n", "run.yaml: line 2, column 2: not valid yaml: "),
    ("a: 1\n\tb: 2\n", "run.yaml: line 2, column 1: not valid yaml: "),
    ("seed: 1\nseed: 2\n", "run.yaml: line 2, column 1: not valid yaml: found duplicate key seed."),
    ("seed: *nowhere\n", "run.yaml: line 1, column 7: not valid yaml: found undefined alias"),
    ("seed: !!python/object/apply:os.getcwd []\n", "run.yaml: line 1, column 7: not valid yaml: could not determine"),
    ("a: &a [*a]\n", "run.yaml: line 1, column 4: not valid yaml: YAML recursive aliases are not supported."),
    ("a: &a {b: {c: *a}}\n", "run.yaml: line 1, column 4: not valid yaml: YAML recursive aliases are not supported."),
    ("- one\n- two\n", "run.yaml: expected `key: value` lines at the top level."),
    ("# nothing\n", "run.yaml: ranker: RunConfig needs this option."),
    (PLAIN + "traner: {}\n", "run.yaml: traner: no such option of RunConfig.\n  Did you mean: trainer\n"),
])  # fmt: skip
def test_what_is_no_config_is_refused_with_its_line(write: Callable[..., Path], text: str, problem: str) -> None:
    assert message(write(text)).startswith(problem)


def test_a_file_that_cannot_be_read_is_no_config(write: Callable[..., Path]) -> None:
    path = write()
    path.write_bytes(b"seed: \xff\xfe")
    assert message(path).startswith("run.yaml: not valid yaml: 'utf-8' codec can't decode byte 0xff")
    if os.geteuid() != 0:
        path.chmod(0)
        assert message(path) == "run.yaml: cannot be read: Permission denied."


@pytest.mark.usefixtures("outside")
def test_modules_are_imported_from_the_folder_of_the_yaml(write: Callable[..., Path], tmp_path: Path) -> None:
    text = "from registry import LOSSES\n@LOSSES.register('outside_loss')\ndef loss(scores, labels, mask, /): ...\n"
    write(text, "outside_module.py")
    loaded = load_config(write(PLAIN + "imports: [outside_module]"), ["ranker.loss=outside_loss"])
    assert loaded.ranker["loss"] == {"name": "outside_loss"}
    assert loaded.imports == {"outside_module": str(tmp_path)}


@pytest.mark.usefixtures("outside")
def test_a_saved_config_finds_its_modules_from_another_folder(write: Callable[..., Path], tmp_path: Path) -> None:
    write("here = 1", "parts/found_again.py")
    write("", "parts/package_found_again/__init__.py")
    saved = f"imports: {{found_again: {tmp_path}/parts, package_found_again: {tmp_path}/parts}}"
    loaded = load_config(write(PLAIN + saved, "run/config.yaml"))
    assert loaded.imports == dict.fromkeys(["found_again", "package_found_again"], str(tmp_path / "parts"))


@pytest.mark.usefixtures("outside")
def test_a_module_that_is_nowhere_is_told_where_to_put_it(write: Callable[..., Path], tmp_path: Path) -> None:
    problem = message(write(PLAIN + "imports: [pytest, nowhere.to_be_found]"))
    assert problem.startswith(
        "run.yaml: imports[1]: no module named 'nowhere.to_be_found'.\n  What to do:   put nowhere/"
    )
    assert str(tmp_path) in problem
    for wrong in ("'my_block.py'", "blocks/mine", "''", ".mine", "3"):
        problem = message(write(PLAIN + f"imports: [{wrong}]"))
        assert problem.startswith(f"run.yaml: imports[0]: not the name of a module: '{wrong.strip(chr(39))}'.")


def test_aliases_of_aliases_are_looked_at_once() -> None:
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]
    config._check_numbers("\n".join(lines))
    with pytest.raises(ConfigError, match=r"^a0\[0\]: 1:30 could be read as another number"):
        config._check_numbers("\n".join(["a0: &a0 [1:30]", *lines[1:]]))


@pytest.mark.parametrize("number", ["1234e56", "12e3"])
def test_a_text_that_yaml_reads_as_a_number_with_a_point_is_refused(write: Callable[..., Path], number: str) -> None:
    # PyYAML takes 12e3 for a text; OmegaConf for 12000.0.
    with pytest.raises(ConfigError, match=r"^run\.yaml: runs: expected a text, got the number 1"):
        load_config(write(), [f"runs={number}"])
    assert load_config(write(), [f"runs='{number}'"]).runs == number
    assert load_config(write(), ["runs=2024"]).runs == "2024"


def test_a_hash_of_digits_alone_has_to_be_quoted(write: Callable[..., Path]) -> None:
    number = "0" * 64
    expected = "run.yaml: init_from.sha256: these digits are read as a number.\n  What to do:   quote a text: "
    assert message(write(), [f"init_from.sha256={number}"]) == expected + f"'init_from.sha256=\"{number}\"'"
    assert message(write(PLAIN + f"init_from: {{sha256: {number}}}")) == expected + f'"{number}"'
    start = load_config(write(), [f'init_from={{name: a, sha256: "{number}"}}']).init_from
    assert start is not None and start.sha256 == number


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_file_is_named(write: Callable[..., Path], content: str) -> None:
    expected = "run.yaml: is empty.\n  What to do:   write `ranker:` and `datamodule:` into it, or copy it back"
    assert message(write(content)).startswith(expected)


@pytest.mark.parametrize("number", ["0b1", "0b1_0", "0x1F", "-0x10"])
def test_numbers_that_are_not_written_in_decimal_are_refused(write: Callable[..., Path], number: str) -> None:
    cure = "write the number with digits alone, or a text in quotes"
    expected = f"run.yaml: runs: {number} could be read as another number.\n  What to do:   {cure}"
    assert message(write(), [f"runs={number}"]) == expected
    assert load_config(write(), [f"runs='{number}'"]).runs == number
    assert load_config(write(), ["runs=0b12abc"]).runs == "0b12abc"
