"""What the commands can be told: small frozen groups of values, each of which declares the flags that set it."""
