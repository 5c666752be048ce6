"""One run from its names to its record: planned, launched in a process, executed, recorded."""
