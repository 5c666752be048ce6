"""The runner: names -> runs -> records. It knows no task by name and imports no other folder."""
