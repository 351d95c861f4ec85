from benchmarks.comparison import Comparison, Ratio, in_own_process, in_turns


def test_ratios_are_taken_repeat_by_repeat() -> None:
    ratios = [Ratio("a", "b", at_most=2), Ratio("a", "b", at_least=4)]
    found = Comparison("some", "what?", {"a": "", "b": ""}, {"a": [3.0, 30.0, 3.0], "b": [1.0, 10.0, 2.0]}, ratios)
    assert found.ratio(ratios[0]) == [3.0, 3.0, 1.5]
    assert not ratios[0].holds(3.0)
    assert not ratios[1].holds(3.0)
    assert ratios[0].holds(2.0)
    assert (ratios[0].wish(), ratios[1].wish()) == ("at most 2", "at least 4")


def test_ways_take_turns_in_turning_order() -> None:
    order: list[str] = []
    found = in_turns({name: (lambda name=name: order.append(name) or len(order)) for name in "abc"}, 2)
    assert "".join(order) == "abccba"
    assert found == {"a": [1, 6], "b": [2, 5], "c": [3, 4]}


def test_work_in_its_own_process_returns_its_result() -> None:
    assert in_own_process(sum, [1, 2]) == 3
