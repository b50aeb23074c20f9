"""Runs on a CPU the PTX that numba-cuda emits.

``program`` reads it, ``semantics`` makes functions of its instructions, ``memory`` and ``machine`` run them, ``shim``
stands where numba's driver stands, and ``plugin`` gives all that to pytest.
"""
