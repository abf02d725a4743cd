"""What runs on a GPU alone, and needs Triton."""
