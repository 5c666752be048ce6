"""The labelled images of classification: an entry for every data set, and how each layout is read."""
