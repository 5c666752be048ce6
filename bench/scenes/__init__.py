"""The embedded world: ray-cast scenes that carry every kind of label, in the standard formats."""
