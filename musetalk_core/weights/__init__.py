"""Weight files: what there is, where it lies, getting it, telling what a file holds, loading it."""
