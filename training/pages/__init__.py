"""Pages: what a finished run looks like, as one HTML file that needs nothing else."""
