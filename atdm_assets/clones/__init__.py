"""Sensor and job that fill the pools of clones."""
