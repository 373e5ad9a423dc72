"""Jobs of a cluster: readable files for SLURM or Kubernetes, and handing them over."""
