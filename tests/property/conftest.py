"""Hypothesis is optional for users, and needed here."""

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
