"""What our server is measured against, apart from stock kernels and jupyter_client."""
