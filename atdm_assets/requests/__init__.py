"""A scenario's asset graph, and the job that runs it for a request."""
