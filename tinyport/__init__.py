"""tinyport: SSH access for fleets of small machines."""
