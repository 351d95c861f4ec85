"""Routers: rankers whose candidates are language models; the best one gets the query."""
