"""Video inpainting with STTN, run on Ray."""

__version__ = "0.1.0"
