"""Files in and out: meshes, parameters, cameras; every writer is atomic."""
