"""Machine profiles, one YAML file each."""
