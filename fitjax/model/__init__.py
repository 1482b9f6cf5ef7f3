"""Face models: what turns parameters into a face."""
