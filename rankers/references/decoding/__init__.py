"""References that choose among sampled responses by what sampling knew: answers, probabilities and lengths."""
