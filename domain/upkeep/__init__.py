"""What keeps the service healthy: findings of the drift detection, and what needs a person's attention."""
