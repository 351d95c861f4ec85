"""From prompts to a store: responses, verdicts and hidden states, each made once."""
