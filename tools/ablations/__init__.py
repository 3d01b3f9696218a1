"""Experiments that compare mechanisms on one small data set: networks, plan, runs, report."""
