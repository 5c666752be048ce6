"""What the authors of the data sets of images with dense labels say that they hold.

Whatever could not be looked up is left out.
"""
