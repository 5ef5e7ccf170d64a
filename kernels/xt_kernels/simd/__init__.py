"""What kernels for CPUs are written in: vectors of Numba, and threads."""
