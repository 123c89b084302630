"""Tests of one run over several devices."""
