"""Tests of the library of factors."""
