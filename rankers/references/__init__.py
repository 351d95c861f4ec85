"""References: rankers without training that every ranker is compared with."""
