"""What the device backend does on a real GPU: checks, products against measured ceilings and a peer, whole fits."""
