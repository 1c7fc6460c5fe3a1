"""What only linear regression has to say of a run."""
