"""Every variant of a model is measured on the same images."""
