"""Products and block algebra on CUDA devices; nothing here is imported where no device is asked for."""
