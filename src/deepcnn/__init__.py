"""Deep convolutional image classifiers: the landmarks as published, and what works best today."""

__version__ = "0.1.0"
__all__ = ["__version__"]
