"""`make reproduce`: the method's own table, trained and compressed here, through the service."""
