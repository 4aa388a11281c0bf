"""The commit, fencing and repair protocol as small models, explored exhaustively (docs/protocol.md)."""
