import torch

from serving.remembered_vectors import RememberedVectors


def test_a_text_is_computed_once_until_it_is_forgotten() -> None:
    computed: list[list[str]] = []

    def lengths(texts: list[str]) -> torch.Tensor:
        computed.append(list(texts))
        return torch.tensor([[float(len(text))] for text in texts])

    remembered = RememberedVectors(2)
    assert remembered.get(["a", "bb", "a"], lengths).flatten().tolist() == [1, 2, 1]
    assert remembered.get(["bb", "a"], lengths).flatten().tolist() == [2, 1]
    assert remembered.get(["ccc", "a"], lengths).flatten().tolist() == [3, 1]
    assert remembered.get(["bb", "a"], lengths).flatten().tolist() == [2, 1]
    assert computed == [["a", "bb"], ["ccc"], ["bb"]], "bb was not used for the longest time"
    assert (remembered.num_found, remembered.num_computed) == (5, 4)


def test_a_size_of_zero_remembers_nothing() -> None:
    calls = []
    remembered = RememberedVectors(0)
    for _ in range(2):
        remembered.get(["a"], lambda texts: (calls.append(texts), torch.zeros(1, 1))[1])
    assert len(calls) == 2
