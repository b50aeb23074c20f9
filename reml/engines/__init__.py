"""How a fit gets its numbers: exact matrices, one Lanczos run, or a reduced model of several components."""
