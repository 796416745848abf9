"""Tests; a package only so that `tests.support` can be imported."""
