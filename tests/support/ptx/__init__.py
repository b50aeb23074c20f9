"""Runs on a CPU the PTX that numba-cuda emits: ``program`` parses it and writes Python, ``memory`` and ``machine`` run
it, ``shim`` stands where numba's driver stands, and ``plugin`` gives all that to pytest.
"""
