"""The embedded world: ray-cast scenes with every kind of label."""
