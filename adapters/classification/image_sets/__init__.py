"""The real data sets of classification: an entry for each, its protocols, and the readers of their layouts."""
