"""Pure tensor functions: boxes, box distributions, deformable attention."""
