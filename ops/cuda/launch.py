"""The one place where a tensor-core kernel is launched, so that a test can put an emulator in its place."""


def launch(kernel, grid, block: int, stream, *arguments) -> None:
    """Queue ``kernel`` on ``stream``: ``grid`` is (x, y) thread blocks of ``block`` threads."""
    kernel[grid, block, stream](*arguments)
