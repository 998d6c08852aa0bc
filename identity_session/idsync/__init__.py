"""An IDSync service of one's own: the Identity API with its identity strategies, in this process.

Give `LocalIDSync().transport` to a session and every call is answered here, by the rules of the chosen strategy.
"""

from .embedded import LocalIDSync
from .strategies import IdentityStrategy

__all__ = ["IdentityStrategy", "LocalIDSync"]
