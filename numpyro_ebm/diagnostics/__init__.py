"""How one checks: the bridge to ArviZ."""

from .arviz import to_arviz as to_arviz
