"""Datasets: generated baselines, made in shards and published as one.

Belongs here: writing shards, running them in parallel, checking them as a whole, publishing and
keeping versions. Does not belong here: what a shard's rows are (``atdm_engine.generation.datasets``), what a
baseline is and how it is restored (``atdm_resources.baselines``).
"""
