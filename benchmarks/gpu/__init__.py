"""What `benchmarks/gpu_proof.py` is made of."""
