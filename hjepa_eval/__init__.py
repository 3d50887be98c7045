"""hjepa: what does each level of a hierarchical vision encoder know?"""

__version__ = "0.1.0"
