"""A run and a suite make generations, scores and comparisons."""
