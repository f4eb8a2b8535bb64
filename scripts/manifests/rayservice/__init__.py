"""What is checked of the RayService itself."""
