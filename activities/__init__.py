"""Everything with a side effect: the activities that workflows call to change the database and the cloud."""
