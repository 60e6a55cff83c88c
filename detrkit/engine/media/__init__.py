"""Pictures that come one after another: videos, cameras and streams, read and written."""
