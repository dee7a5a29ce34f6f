"""Signals as networks: a clip as a key network and small weight steps."""
