"""What goes over the wire and between processes."""
