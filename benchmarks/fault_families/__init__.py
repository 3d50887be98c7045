"""Families of faults: each yields tries, and says of each what must hold."""
