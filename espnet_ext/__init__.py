"""Training of speech recognisers beyond plain supervision, on top of ESPnet.

Importing this package costs milliseconds: it imports neither torch nor ESPnet, only tells the import system
what must happen once ESPnet's modules are loaded (see `_startup`).
"""

from espnet_ext import _startup

__version__ = "0.1.0"

_startup.install()
