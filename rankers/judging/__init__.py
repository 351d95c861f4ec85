"""How validation and test judge a ranker: over groups, or over a whole pool by vectors, scores or ranked lists."""
