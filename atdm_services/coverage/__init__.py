"""Requirements against scenarios against outcomes of tests."""
