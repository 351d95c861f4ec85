"""Call forms: the notations of function calls, one in each file."""
