"""How one integrates: methods that know the normaliser of an energy."""

from ._base import AbstractExactMethod as AbstractExactMethod
from .enumeration import Enumeration as Enumeration
from .quadrature import Quadrature as Quadrature
