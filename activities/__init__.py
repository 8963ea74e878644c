"""Everything with a side effect: what workflows have done to the database and to the cloud."""
