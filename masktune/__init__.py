"""Find out what an image classifier is really looking at, and make it look further, without group labels.

The public names are listed in `__init__.pyi`, for editors and type checkers; each is imported
when it is first used.
"""
import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
