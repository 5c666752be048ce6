"""Task families: every .py here is one; what they share on OpenMMLab is the sub-package."""
