"""The campaign: many runs with many faults, against a ledger and an oracle outside the program (docs/campaign.md).

Programs here are whole ones on real storage. What is cheap enough for every `make test` is in tests/kills.
"""
