"""Many jobs from one file: on this machine one after the other, or by the workers of a Ray cluster."""
