"""Seeds stay what they were: stores of responses were sampled with them."""

from language_models.sampling.seeds import request_seed, seed_of


def test_seeds_are_those_of_older_stores() -> None:
    assert request_seed(7, "q-ü", 3) == 421467032
    assert seed_of(7, "q-ü", 3, 16) == 163972162119498636121707793896199233815


def test_seeds_differ_with_each_of_what_they_depend_on() -> None:
    seeds = {request_seed(seed, query, number) for seed in range(3) for query in "abc" for number in range(3)}
    assert len(seeds) == 27 and all(0 <= seed < 2**31 for seed in seeds)
