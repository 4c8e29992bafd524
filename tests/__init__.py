"""The tests. A setting for all of them, made before NumPy loads its BLAS library."""

import os

# OpenBLAS threads spin while they wait for the next product. In the tests they sleep at once, which saves CPU time.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
