"""A timm backbone in OpenMMLab heads, without compiling anything."""
