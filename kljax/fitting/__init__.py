"""Maximum likelihood and other supervised objectives."""
