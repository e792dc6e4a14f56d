"""The part that works inside RD-Agent; the only package that imports it."""
