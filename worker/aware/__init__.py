"""Factors that lose least of what a layer computes on real inputs, and not of its weights alone."""
