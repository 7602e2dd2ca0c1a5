"""The sensor that answers submissions."""
