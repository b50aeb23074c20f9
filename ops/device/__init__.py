"""Products and blocks on devices of their own memory: pool, blocks, residency, shards, plan.

Nothing here knows CUDA: :class:`~gpu_reml.ops.device.interface.Device` says what a device must do.
"""
