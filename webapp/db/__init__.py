"""The SQL database: base of the models, engines, outages, backup, and leases on answers."""
