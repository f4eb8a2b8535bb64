"""What must be there before anything is deployed: tools, a cluster, the operator."""
