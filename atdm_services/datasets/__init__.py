"""Datasets: generated baselines, made in shards and published as one version."""
