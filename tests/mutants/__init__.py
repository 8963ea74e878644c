"""Small mistakes put into the rules, one at a time: each must make a fast test fail (`make mutants`)."""
