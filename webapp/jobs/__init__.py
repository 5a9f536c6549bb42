"""Work that takes long: jobs in the database, and the processes that do them."""
