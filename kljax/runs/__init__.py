"""A run on disk, and what fitting and RL share."""
