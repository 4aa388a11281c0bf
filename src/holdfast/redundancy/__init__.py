"""Redundancy sets: members that share parity, so that some of them may be lost with all they kept."""

from .exchange import Member, exchange
from .scheme import Scheme, Sum, Symbol

__all__ = ["Member", "Scheme", "Sum", "Symbol", "exchange"]
