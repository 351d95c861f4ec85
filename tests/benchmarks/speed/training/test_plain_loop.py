import torch

from benchmarks.speed.training import plain_loop
from registry import RANKERS


def test_both_plain_ways_to_project_give_the_same_result() -> None:
    draw = torch.Generator().manual_seed(0)
    memory = plain_loop.Memory(torch.randn(3, 8, generator=draw).half(), torch.randn(9, 8, generator=draw).half())
    groups = plain_loop.Group(torch.tensor([2, 0, 2]), torch.tensor([[8, 1], [1, 0], [5, 8]]), torch.ones(3, 2))
    weights = RANKERS.build("list_ranker", feature_dim=8).state_dict()
    model = plain_loop.PlainListRanker(8, weights)
    stacked = plain_loop.StackedGroups(memory, [groups], torch.float32)
    features = torch.stack([stacked[place][0] for place in range(3)])
    ways = [
        *plain_loop.projecting_each_slot(model, memory, [groups]),
        *plain_loop.projecting_each_row(model, memory, [groups]),
        (model.project(features[:, 0]), model.project(features[:, 1:]), groups.labels),
    ]
    for query, candidates, labels in ways[1:]:
        torch.testing.assert_close(query, ways[0][0])
        torch.testing.assert_close(candidates, ways[0][1])
        assert torch.equal(labels, groups.labels)
