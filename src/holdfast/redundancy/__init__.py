"""Redundancy sets: members that share parity, so that some of them may be lost with all they kept."""

from .exchange import Member, MemoryMember, exchange
from .scheme import Scheme, Sum, Symbol

__all__ = ["Member", "MemoryMember", "Scheme", "Sum", "Symbol", "exchange"]
