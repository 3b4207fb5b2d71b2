"""What the actors and their resources speak of: values, records, settings, errors, names."""
