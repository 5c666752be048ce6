"""A package, so that one of the same name that a dependency installs (model-index) does not come before it."""
